package nbd

import (
	"bytes"
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stall makes the first change of d wait before it asks to be admitted. entered gets a
// value when it does; closing release lets it go on.
func stall(d *memDisk) (entered, release chan struct{}) {
	entered, release = make(chan struct{}, 1), make(chan struct{})
	first := make(chan struct{}, 1)
	first <- struct{}{}
	d.beforeAdmit = func() {
		select {
		case <-first:
			entered <- struct{}{}
			<-release
		default:
		}
	}
	return entered, release
}

// closedOf wants the end of connection id.
func closedOf(id uint64) func(Event) bool {
	return func(e Event) bool { return e.Kind == ConnClosed && e.Conn == id }
}

// The ghost of trap 1: a change stalls, its client gives up and does the same and more on
// another connection, and the stalled one is let go.
func TestGhostIsDropped(t *testing.T) {
	small, large := bytes.Repeat([]byte("o"), 4096), bytes.Repeat([]byte("o"), 1<<20)
	for _, tt := range []struct {
		name    string
		cmd     uint16
		payload []byte
		// both says that the second connection is there from the start.
		both bool
	}{
		{"small write", cmdWrite, small, false},
		{"large write", cmdWrite, large, false},
		{"trim", cmdTrim, nil, false},
		{"zero", cmdWriteZeroes, nil, false},
		{"small write, two connections", cmdWrite, small, true},
		{"large write, two connections", cmdWrite, large, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, log := newMemDisk(1<<20), newEventLog()
			entered, release := stall(d)
			s := &Server{Exports: []Export{{Device: d}}, OnEvent: log.add}
			path := startServer(t, s)
			old := attach(t, path)
			var successor *client
			if tt.both {
				successor = attach(t, path)
			}

			old.send(tt.cmd, 0, 0, 4096, tt.payload)
			<-entered
			old.send(cmdWrite, 0, 8192, 0, []byte("more")) // lies in the socket, or goes through
			_ = old.nc.Close()
			if !tt.both {
				successor = attach(t, path)
			}
			want := bytes.Repeat([]byte("n"), 4096)
			successor.must(cmdWrite, 0, 0, 0, want)
			close(release)

			log.await(t, closedOf(1))
			if got := d.content(0, 4096); !bytes.Equal(got, want) {
				t.Errorf("disk holds %q…, the successor wrote %q…", got[:8], want[:8])
			}
			if n := s.Stats().Dropped; n == 0 {
				t.Error("nothing was counted as dropped")
			}
			successor.must(cmdFlush, 0, 0, 0, nil)
		})
	}
}

// A change whose client is still there is done, however long it stalled and whatever
// others did.
func TestStalledChangeOfLiveClient(t *testing.T) {
	d := newMemDisk(1 << 20)
	entered, release := stall(d)
	path := serveDisk(t, d)
	slow, other := attach(t, path), attach(t, path)
	slow.send(cmdWrite, 0, 0, 0, []byte("slow"))
	<-entered
	other.must(cmdWrite, 0, 0, 0, []byte("other"))
	close(release)
	if r := slow.receive(); r.errno != 0 {
		t.Errorf("reply %v", r.errno)
	}
	if got := d.content(0, 5); string(got) != "slowr" {
		t.Errorf("disk holds %q, want \"slowr\"", got)
	}
}

// What was outstanding at DISC is finished, unless another connection came first.
func TestOutstandingAtDisconnect(t *testing.T) {
	for _, tt := range []struct {
		name      string
		overwrite bool
		want      byte
	}{{"alone", false, 'o'}, {"overtaken", true, 'n'}} {
		t.Run(tt.name, func(t *testing.T) {
			d, log := newMemDisk(1<<20), newEventLog()
			entered, release := stall(d)
			path := startServer(t, &Server{Exports: []Export{{Device: d}}, OnEvent: log.add})
			c, other := attach(t, path), attach(t, path)
			c.send(cmdWrite, 0, 0, 0, bytes.Repeat([]byte("o"), 1<<20))
			<-entered
			c.send(cmdDisc, 0, 0, 0, nil)
			_ = c.nc.Close()
			if tt.overwrite {
				other.must(cmdWrite, 0, 0, 0, bytes.Repeat([]byte("n"), 1<<20))
			}
			close(release)
			log.await(t, closedOf(1))
			if got := d.content(0, 1)[0]; got != tt.want {
				t.Errorf("disk holds %q, want %q", got, tt.want)
			}
		})
	}
}

// What the reader itself holds back is finished too when DISC lies behind it in the read
// buffer, though the client has left long before it gets its place in the order.
func TestHeldBackBeforeDisconnect(t *testing.T) {
	write := encodeRequest(cmdWrite, 0, 1, 0, 2, []byte("ab"))
	disc := encodeRequest(cmdDisc, 0, 2, 0, 0, nil)
	masked := encodeRequest(cmdWrite, 0, 3, 0, uint32(len(disc)), disc)
	for _, tt := range []struct {
		name     string
		requests [][]byte
		want     bool
	}{
		{"write", [][]byte{write, disc}, true},
		{"more writes than a batch holds", [][]byte{bytes.Repeat(write, maxBatch+1), disc}, true},
		{"write and flush", [][]byte{write, encodeRequest(cmdFlush, 0, 4, 0, 0, nil), disc}, true},
		{"trim", [][]byte{encodeRequest(cmdTrim, 0, 5, 0, 1, nil), write, disc}, true},
		{"large write behind it", [][]byte{write, encodeRequest(cmdWrite, 0, 6, 0, 100<<10, make([]byte, 100<<10)), disc}, true},
		{"no disconnect", [][]byte{write}, false},
		{"a payload that looks like one", [][]byte{write, masked}, false},
		{"a payload cut off where it looks like one", [][]byte{write, masked[:requestHeaderSize-4], be32(100), disc}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk(1 << 20)
			s := &Server{Exports: []Export{{Device: d}}}
			if err := s.setUp(); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			near, far := socketPair(t)
			for _, end := range []net.Conn{near, far} { // all of it is to come with one read
				if err := end.(*net.UnixConn).SetWriteBuffer(inputBytes); err != nil {
					t.Fatal(err)
				}
			}
			c := newConn(s, 1, near)
			c.export, c.size = s.exports[0], 1<<20
			var once sync.Once
			d.beforeAdmit = func() { // as if the log had been full for an hour
				once.Do(func() { c.received = time.Now().Add(-time.Hour) })
			}
			if _, err := far.Write(bytes.Join(tt.requests, nil)); err != nil {
				t.Fatal(err)
			}
			_ = far.Close()
			c.end(c.transmit())
			if got := d.content(0, 1)[0] == 'a' || d.writes.Load() > 1; got != tt.want {
				t.Errorf("the changes were done: %v, want %v", got, tt.want)
			}
			if got := s.Stats().Dropped == 0; got != tt.want {
				t.Errorf("nothing was dropped: %v, want %v", got, tt.want)
			}
		})
	}
}

// socketPair returns both ends of a connection.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

// Bytes that a read returns after a long absence are young only if the client is still
// there.
func TestStaleBytes(t *testing.T) {
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	if err := s.setUp(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tt := range []struct {
		name    string
		absence time.Duration
		left    bool
		gone    bool
	}{
		{"absent, client left", time.Hour, true, true},
		{"absent, client there", time.Hour, false, false},
		{"present, client left", 0, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := socketPair(t)
			c := newConn(s, 1, near)
			c.export = s.exports[0]
			c.received = time.Now().Add(-tt.absence)
			if _, err := far.Write([]byte("request")); err != nil {
				t.Fatal(err)
			}
			if tt.left {
				_ = far.Close()
			}
			if _, err := c.receive(make([]byte, 100), 0); err != nil {
				t.Fatal(err)
			}
			c.settleDoubt()
			if got := c.gone.Load(); got != tt.gone {
				t.Errorf("gone: %v, want %v", got, tt.gone)
			}
			if got := c.admit(c.received, c.tailInSocket); got == tt.gone && !tt.left {
				t.Errorf("admitted: %v", got)
			}
		})
	}
}

// The questions that admit asks, one by one.
func TestAdmit(t *testing.T) {
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	if err := s.setUp(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tt := range []struct {
		name   string
		age    time.Duration
		others bool
		disc   bool
		left   bool
		want   bool
	}{
		{"young, there", 0, false, false, false, true},
		{"old, there", time.Hour, true, false, false, true},
		{"young, left", 0, false, false, true, true},
		{"old, left", time.Hour, false, false, true, false},
		{"young, left, another changed", 0, true, false, true, false},
		{"old, left after disc", time.Hour, false, true, true, true},
		{"old, left after disc, another changed", time.Hour, true, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := socketPair(t)
			c := newConn(s, 1, near)
			c.export = s.exports[0]
			c.changesSeen.Store(c.export.changes.Load())
			if tt.others {
				c.export.changes.Add(1)
			}
			c.disconnecting.Store(tt.disc)
			if tt.left {
				_ = far.Close()
			}
			if got := c.admit(time.Now().Add(-tt.age), c.tailInSocket); got != tt.want {
				t.Errorf("admit: %v, want %v", got, tt.want)
			}
			if tt.want && c.export.changes.Load() != c.changesSeen.Load() {
				t.Error("the change was not noted")
			}
			if !tt.want && c.admit(time.Now(), c.tailInSocket) {
				t.Error("a later change was admitted")
			}
		})
	}
}

// Over TCP the host's word comes by other flags.
func TestHungUpTCP(t *testing.T) {
	l, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		name  string
		leave func(nc *net.TCPConn)
		want  bool
	}{
		{"there", func(*net.TCPConn) {}, false},
		{"closed", func(nc *net.TCPConn) { _ = nc.Close() }, true},
		{"half closed", func(nc *net.TCPConn) { _ = nc.CloseWrite() }, true},
		{"reset", func(nc *net.TCPConn) { _ = nc.SetLinger(0); _ = nc.Close() }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			far, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			near, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			if _, err := far.Write([]byte("unread requests")); err != nil {
				t.Fatal(err)
			}
			tt.leave(far.(*net.TCPConn))
			c := newConn(&Server{}, 1, near)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for c.hungUp() != tt.want { // the kernel's news travels at its own pace
				if ctx.Err() != nil {
					t.Fatalf("hung up: %v, want %v", !tt.want, tt.want)
				}
			}
		})
	}
}
