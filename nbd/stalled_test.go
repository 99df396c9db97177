package nbd

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// flood sends requests and reads no reply until the server takes no more.
func flood(t *testing.T, c *client, request []byte) {
	t.Helper()
	many := bytes.Repeat(request, 1+64<<10/len(request))
	for total := 0; ; total += len(many) {
		_ = c.nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.nc.Write(many); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("after %d bytes: %v", total, err)
			}
			return
		}
		if total > 256<<20 {
			t.Fatalf("the server goes on taking requests: %d bytes", total)
		}
	}
}

// A client that never reads its replies is not read any more, holds a bounded amount of
// memory, and nobody else notices.
func TestNeverReadingClient(t *testing.T) {
	for _, tt := range []struct {
		name      string
		request   []byte
		notCached bool
	}{
		{"small reads in place", encodeRequest(cmdRead, 0, 1, 0, 4096, nil), false},
		{"small reads by workers", encodeRequest(cmdRead, 0, 1, 0, 4096, nil), true},
		{"large reads", encodeRequest(cmdRead, 0, 1, 0, 1<<20, nil), false},
		{"largest reads", encodeRequest(cmdRead, 0, 1, 0, 32<<20, nil), false},
		{"writes", encodeRequest(cmdWrite, 0, 1, 0, 8, make([]byte, 8)), false},
		{"flushes", encodeRequest(cmdFlush, 0, 1, 0, 0, nil), false},
		{"errors", encodeRequest(99, 0, 1, 0, 0, nil), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // each waits for its flood to stand still
			d := newMemDisk(32 << 20)
			d.notCached.Store(tt.notCached)
			s := &Server{Exports: []Export{{Device: d}}, Workers: 4}
			path := startServer(t, s)
			hog, other := attach(t, path), attach(t, path)
			flood(t, hog, tt.request)
			if held := s.Stats().BufferBytes; held > 32<<20 {
				t.Errorf("the hog holds %d bytes", held)
			}
			for range 100 {
				other.must(cmdWrite, 0, 0, 0, make([]byte, 4096))
				other.must(cmdRead, 0, 0, 4096, nil)
				other.must(cmdFlush, 0, 0, 0, nil)
			}
			other.must(cmdWrite, 0, 0, 0, make([]byte, 1<<20))
			other.must(cmdRead, 0, 0, 200<<10, nil)
		})
	}
}

// When others wait for the memory that a client holds which does not read, it is closed.
func TestStalledClientIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newEventLog()
		s := &Server{Exports: []Export{{Device: newMemDisk(32 << 20)}}, OnEvent: log.add}
		if err := s.setUp(); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		connect := func() *client {
			near, far := net.Pipe()
			s.accepted(far)
			c := newClient(t, near)
			c.chooseExport("")
			return c
		}
		hog, other := connect(), connect()
		hog.send(cmdRead, 0, 0, 32<<20, nil)
		synctest.Wait()
		start := time.Now()
		other.must(cmdRead, 0, 0, 4096, nil) // has a pool of its own
		if took := time.Since(start); took != 0 {
			t.Errorf("a small read waited %v", took)
		}
		cookie := other.send(cmdRead, 0, 0, 32<<20, nil)
		_ = other.nc.SetReadDeadline(time.Time{})
		r, err := other.slowReceive()
		if err != nil || r.cookie != cookie || len(r.data) != 32<<20 {
			t.Fatalf("the other's read: cookie %d, %d bytes, %v", r.cookie, len(r.data), err)
		}
		if took := time.Since(start); took < starvedAfter || took > 2*starvedAfter {
			t.Errorf("the other waited %v, want 10 to 20 s", took)
		}
		if e := log.await(t, closedOf(1)); e.Reason != reasonStalled {
			t.Errorf("the hog was closed because %q", e.Reason)
		}
	})
}

// slowReceive is tryReceive for a reply that may take as long as it likes: the next byte
// is awaited without a deadline.
func (c *client) slowReceive() (result, error) {
	var first [1]byte
	if _, err := c.nc.Read(first[:]); err != nil {
		return result{}, err
	}
	c.nc = &prefixed{c.nc, first[:]}
	return c.tryReceive()
}

// prefixed is a connection whose first bytes were read already.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// One connection can't have all workers: requests of another go on.
func TestWorkersAreShared(t *testing.T) {
	d := newMemDisk(1 << 20)
	d.notCached.Store(true)
	entered, release := make(chan struct{}, 1000), make(chan struct{})
	d.beforeRead = func() { entered <- struct{}{}; <-release }
	path := startServer(t, &Server{Exports: []Export{{Device: d}}})
	hog, other := attach(t, path), attach(t, path)
	const many = 200
	for range many {
		hog.send(cmdRead, 0, 0, 10, nil)
	}
	for range maxHandedOff {
		<-entered
	}
	other.send(cmdRead, 0, 0, 10, nil)
	<-entered // the other's, because the hog may have no more
	select {
	case <-entered:
		t.Errorf("a connection has more than %d requests with workers", maxHandedOff)
	default:
	}
	close(release)
	for range many {
		if r := hog.receive(); r.errno != 0 || len(r.data) != 10 {
			t.Fatalf("reply %+v", r)
		}
	}
	if r := other.receive(); r.errno != 0 {
		t.Errorf("reply %+v", r)
	}
}

// When a client has left, or the server is closed, what lies in the buffer is not worked off.
func TestNothingIsBegunForTheGone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(s *Server, c *client)
	}{
		{"client left", func(_ *Server, c *client) { _ = c.nc.Close() }},
		{"server closed", func(s *Server, c *client) { go s.Close(); c.mustBeClosed() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, log := newMemDisk(1<<20), newEventLog()
			entered, release := make(chan struct{}, 10000), make(chan struct{})
			d.beforeRead = func() { entered <- struct{}{}; <-release }
			s := &Server{Exports: []Export{{Device: d}}, OnEvent: log.add}
			c := attach(t, startServer(t, s))
			const many = 2000
			c.write(bytes.Repeat(encodeRequest(cmdRead, 0, 1, 0, 100<<10, nil), many))
			for range maxHandedOff {
				<-entered
			}
			tt.leave(s, c)
			close(release)
			log.await(t, ofKind(ConnClosed))
			if n := d.reads.Load(); n > many/2 {
				t.Errorf("%d of %d reads were done for a client that is gone", n, many)
			}
		})
	}
}
