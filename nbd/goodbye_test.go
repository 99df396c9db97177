package nbd

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// What the reader holds back is finished when the client says DISC and leaves meanwhile, though
// the reader has not come to the DISC; what it sent in between is done as well.
func TestDisconnectLeftInSocket(t *testing.T) {
	write := encodeRequest(cmdWrite, 0, 1, 0, 2, []byte("ab"))
	disc := encodeRequest(cmdDisc, 0, 2, 0, 0, nil)
	large := encodeRequest(cmdWrite, 0, 6, 8192, 100<<10, bytes.Repeat([]byte("l"), 100<<10))
	masked := encodeRequest(cmdWrite, 0, 3, 0, uint32(len(disc)), disc)
	for _, tt := range []struct {
		name        string
		first, rest []byte
		writes      int64 // that are done
	}{
		{"disconnect", write, disc, 1},
		{"more requests", write, slices.Concat(write, encodeRequest(cmdFlush, 0, 4, 0, 0, nil), write, disc), 3},
		{"a request cut by the reads", slices.Concat(write, write[:10]), slices.Concat(write[10:], disc), 2},
		{"a large payload behind", slices.Concat(write, large[:50]), slices.Concat(large[50:], disc), 2},
		{"a disconnect cut by the reads", slices.Concat(write, disc[:10]), disc[10:], 1},
		{"no disconnect", write, write, 0},
		{"nothing", write, nil, 0},
		{"a payload that looks like one", write, masked, 0},
		{"half a disconnect", write, disc[:20], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk(1 << 20)
			s := &Server{Exports: []Export{{Device: d}}}
			if err := s.setUp(); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			near, far := socketPair(t)
			for _, end := range []net.Conn{near, far} {
				if err := end.(*net.UnixConn).SetWriteBuffer(inputBytes); err != nil {
					t.Fatal(err)
				}
			}
			c := newConn(s, 1, near)
			c.export, c.size = s.exports[0], 1<<20
			s.exports[0].holders++
			var once sync.Once
			d.beforeAdmit = func() { // as if the log had been full for an hour
				once.Do(func() {
					if _, err := far.Write(tt.rest); err != nil {
						t.Error(err)
					}
					_ = far.Close()
					c.received = time.Now().Add(-time.Hour)
				})
			}
			if _, err := far.Write(tt.first); err != nil {
				t.Fatal(err)
			}
			c.end(c.transmit())
			if got := d.writes.Load(); got != tt.writes {
				t.Errorf("%d writes were done, want %d", got, tt.writes)
			}
		})
	}
}

// The same for what is with a worker while the reader waits for another.
func TestDisconnectBehindWaitingReader(t *testing.T) {
	for _, overtaken := range []bool{false, true} {
		d, log := newMemDisk(1<<20), newEventLog()
		entered, release := stall(d)
		path := startServer(t, &Server{Exports: []Export{{Device: d}}, OnEvent: log.add, Workers: 1})
		c, other := attach(t, path), attach(t, path)
		for range 2 { // the second waits for the worker, and the reader with it
			c.send(cmdWrite, 0, 0, 0, bytes.Repeat([]byte("o"), 100<<10))
		}
		<-entered
		c.send(cmdDisc, 0, 0, 0, nil)
		_ = c.nc.Close()
		if overtaken {
			other.must(cmdWrite, 0, 0, 0, []byte("n"))
		}
		time.AfterFunc(2*doubtAfter, func() { close(release) }) // when age raises a doubt
		log.await(t, closedOf(1))
		want := int64(2)
		if overtaken {
			want = 1 // the other's
		}
		if got := d.writes.Load(); got != want {
			t.Errorf("overtaken %v: %d writes were done, want %d", overtaken, got, want)
		}
	}
}

// Through TLS nothing can be seen; what lies in the socket is not decoded.
func TestPeek(t *testing.T) {
	near, far := socketPair(t)
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	c := newConn(s, 1, near)
	if got := c.peek(); got != nil {
		t.Errorf("an empty socket holds %q", got)
	}
	for _, p := range []string{"in ", "pieces"} {
		if _, err := far.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // nothing is taken
		if got := string(c.peek()); got != "in pieces" {
			t.Errorf("the socket holds %q", got)
		}
	}
	_ = far.Close()
	if got := string(c.peek()); got != "in pieces" {
		t.Errorf("after the other end has left the socket holds %q", got)
	}
	_ = near.Close()
	if got := c.peek(); got != nil {
		t.Errorf("a closed socket holds %q", got)
	}
}
