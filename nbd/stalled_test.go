package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
// memory, and nobody else notices, whose requests are of the same kind and size; except
// that the one buffer of the largest size must be taken from the hog first.
func TestNeverReadingClient(t *testing.T) {
	for _, tt := range []struct {
		name      string
		request   []byte
		notCached bool
		repeat    uint32 // size of the other's request that is like the hog's
	}{
		{"small reads in place", encodeRequest(cmdRead, 0, 1, 0, 4096, nil), false, 4096},
		{"small reads by workers", encodeRequest(cmdRead, 0, 1, 0, 4096, nil), true, 4096},
		{"large reads", encodeRequest(cmdRead, 0, 1, 0, 1<<20, nil), false, 1 << 20},
		{"largest reads", encodeRequest(cmdRead, 0, 1, 0, 32<<20, nil), false, 32 << 20},
		{"writes", encodeRequest(cmdWrite, 0, 1, 0, 8, make([]byte, 8)), false, 8},
		{"flushes", encodeRequest(cmdFlush, 0, 1, 0, 0, nil), false, 0},
		{"errors", encodeRequest(99, 0, 1, 0, 0, nil), false, 0},
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
			if tt.repeat > 0 {
				other.must(cmdRead, 0, 0, tt.repeat, nil)
				other.must(cmdWrite, 0, 0, 0, make([]byte, tt.repeat))
			}
		})
	}
}

// pipeServer serves d over pipes, for a synctest bubble. connect attaches a client.
func pipeServer(t *testing.T, d Device) (connect func() *client, log *eventLog) {
	t.Helper()
	log = newEventLog()
	s := &Server{Exports: []Export{{Device: d}}, OnEvent: log.add}
	if err := s.setUp(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return func() *client {
		near, far := net.Pipe()
		s.accepted(far)
		c := newClient(t, near)
		c.chooseExport("")
		return c
	}, log
}

// slowMust is must for a request that may take up to an hour of a bubble's clock. It
// returns how long it took.
func (c *client) slowMust(cmd uint16, n uint32) time.Duration {
	c.t.Helper()
	start := time.Now()
	var cookie uint64
	if cmd == cmdWrite { // a pipe takes the payload only while the server reads it
		c.lastCookie++
		cookie = c.lastCookie
		_ = c.nc.SetWriteDeadline(start.Add(time.Hour))
		if _, err := c.nc.Write(encodeRequest(cmd, 0, cookie, 0, n, make([]byte, n))); err != nil {
			c.t.Fatal(err)
		}
	} else {
		cookie = c.send(cmd, 0, 0, n, nil)
	}
	_ = c.nc.SetReadDeadline(start.Add(time.Hour))
	r, err := c.slowReceive()
	if err != nil || r.cookie != cookie || r.errno != 0 {
		c.t.Fatalf("reply %d %v, want %d: %v", r.cookie, r.errno, cookie, err)
	}
	return time.Since(start)
}

// When others wait for the one largest buffer, a client that holds it and does nothing for
// its return is closed in a while; requests of other sizes don't wait at all.
func TestStalledClientIsClosed(t *testing.T) {
	const huge = 32 << 20
	payload := func(n int) []byte { return encodeRequest(cmdWrite, 0, 1, 0, huge, make([]byte, n)) }
	// trickle moves a little again and again, until the server closes the connection.
	trickle := func(c *client, step func() error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for step() == nil {
				time.Sleep(100 * time.Millisecond) // of the bubble's clock
			}
		}()
		c.t.Cleanup(func() { <-done })
	}
	for _, tt := range []struct {
		name   string
		hog    func(c *client)
		within time.Duration
		reason string
	}{
		{"reads nothing", func(c *client) {
			c.send(cmdRead, 0, 0, huge, nil)
		}, starvedAfter + starvedTick, reasonNotReading},
		{"reads a trickle", func(c *client) {
			c.send(cmdRead, 0, 0, huge, nil)
			_ = c.nc.SetDeadline(time.Time{})
			some := make([]byte, 64<<10) // 640 KiB/s
			trickle(c, func() error { _, err := io.ReadFull(c.nc, some); return err })
		}, starvedAfter + loanTime + starvedTick, reasonNotReading},
		{"payload of 1,000 bytes, then silence", func(c *client) {
			c.write(payload(1000))
		}, starvedAfter + starvedTick, reasonNotSending},
		{"half a payload, then silence", func(c *client) {
			c.write(payload(huge / 2))
		}, starvedAfter + starvedTick, reasonNotSending},
		{"a payload that trickles", func(c *client) {
			c.write(payload(1000))
			_ = c.nc.SetDeadline(time.Time{})
			some := make([]byte, 64<<10)
			trickle(c, func() error { _, err := c.nc.Write(some); return err })
		}, starvedAfter + loanTime + starvedTick, reasonNotSending},
	} {
		for _, cmd := range []uint16{cmdRead, cmdWrite} {
			t.Run(fmt.Sprintf("%s, command %d waits", tt.name, cmd), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					connect, log := pipeServer(t, newMemDisk(huge))
					hog, other := connect(), connect()
					tt.hog(hog)
					synctest.Wait()
					for _, n := range []uint32{4096, 256 << 10, 4 << 20} {
						if took := other.slowMust(cmdRead, n) + other.slowMust(cmdWrite, n); took != 0 {
							t.Errorf("requests of %d bytes waited %v", n, took)
						}
					}
					took := other.slowMust(cmd, huge)
					if took < starvedAfter || took > tt.within {
						t.Errorf("the other waited %v, want %v to %v", took, starvedAfter, tt.within)
					}
					if e := log.await(t, closedOf(1)); e.Reason != tt.reason {
						t.Errorf("the hog was closed because %q", e.Reason)
					}
				})
			})
		}
	}
}

// A client that moves its loan fast enough keeps it, though others wait; and one that is
// silent keeps it while nobody does.
func TestSlowClientIsKept(t *testing.T) {
	const huge = 32 << 20
	t.Run("others wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			connect, _ := pipeServer(t, newMemDisk(huge))
			slow, other := connect(), connect()
			whole := encodeRequest(cmdWrite, 0, 1, 0, huge, make([]byte, huge))
			slow.write(whole[:1000])
			synctest.Wait() // the loan is the slow one's
			waited := make(chan time.Duration, 1)
			go func() { waited <- other.slowMust(cmdWrite, huge) }()
			for rest := whole[1000:]; len(rest) > 0; {
				time.Sleep(time.Second) // of the bubble's clock
				n := min(len(rest), 2<<20)
				slow.write(rest[:n])
				rest = rest[n:]
			}
			if r := slow.receive(); r.errno != 0 {
				t.Errorf("reply %v", r.errno)
			}
			if took := <-waited; took != 16*time.Second {
				t.Errorf("the other waited %v, want the 16 s that the slow one took", took)
			}
		})
	})
	t.Run("others wait, replies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			connect, _ := pipeServer(t, newMemDisk(huge))
			slow, other := connect(), connect()
			slow.send(cmdRead, 0, 0, huge, nil)
			synctest.Wait()
			waited := make(chan time.Duration, 1)
			go func() { waited <- other.slowMust(cmdRead, huge) }()
			for range 16 {
				time.Sleep(time.Second) // of the bubble's clock
				slow.read(huge / 16)
			}
			slow.read(simpleReplySize) // the header's length is what is left
			if took := <-waited; took != 16*time.Second {
				t.Errorf("the other waited %v, want the 16 s that the slow one took", took)
			}
		})
	})
	t.Run("nobody waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			connect, _ := pipeServer(t, newMemDisk(huge))
			slow, other := connect(), connect()
			whole := encodeRequest(cmdWrite, 0, 1, 0, huge, make([]byte, huge))
			slow.write(whole[:1000])
			time.Sleep(time.Hour) // of the bubble's clock
			other.slowMust(cmdWrite, 1<<20)
			slow.write(whole[1000:])
			if r := slow.receive(); r.errno != 0 {
				t.Errorf("reply %v", r.errno)
			}
		})
	})
}

// Clients that ask for much and don't read leave room for others: a few of them cost no
// time at all, and many, who fill a pool with one buffer each, lose them soon.
func TestStalledReadersLeaveRoom(t *testing.T) {
	for _, tt := range []struct {
		name   string
		hogs   int
		size   uint32 // of their requests
		asks   uint32 // size of the victim's
		within time.Duration
	}{
		{"four, 1 MiB", 4, 1 << 20, 1 << 20, 0},
		{"four, 1 MiB, and 4 MiB are asked for", 4, 1 << 20, 4 << 20, 0},
		{"seven, 1 MiB", 7, 1 << 20, 1 << 20, 0},
		{"sixteen, 1 MiB", 16, 1 << 20, 1 << 20, starvedAfter + starvedTick},
		{"four, 4 MiB", 4, 4 << 20, 4 << 20, starvedAfter + starvedTick},
		{"twelve, 128 KiB", 12, 128 << 10, 128 << 10, 0},
		{"ninety, 128 KiB", 90, 128 << 10, 128 << 10, starvedAfter + starvedTick},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connect, _ := pipeServer(t, newMemDisk(4<<20))
				for range tt.hogs {
					hog := connect()
					go func() { // the server stops reading before it has them all
						for range 8 {
							request := encodeRequest(cmdRead, 0, 1, 0, tt.size, nil)
							_ = hog.nc.SetWriteDeadline(time.Time{})
							if _, err := hog.nc.Write(request); err != nil {
								return
							}
						}
					}()
				}
				victim := connect()
				synctest.Wait()
				for range 3 {
					took := victim.slowMust(cmdWrite, tt.asks) + victim.slowMust(cmdRead, tt.asks)
					if took > tt.within {
						t.Errorf("the victim waited %v, want at most %v", took, tt.within)
					}
				}
			})
		})
	}
}

// The credit of a client, as time passes and bytes move.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name  string
		moves []int         // bytes of 1,000
		every time.Duration // before each
		want  bool          // overdue at the end, and a tick after a warning
	}{
		{"at once", nil, 0, false},
		{"silence, not long", []int{0}, starvedAfter - 1, false},
		{"silence", []int{0}, starvedAfter, true},
		{"fast enough", []int{50, 50, 50, 50, 50, 50}, loanTime / 20, false},
		{"too slow", []int{20, 20, 20, 20, 20, 20}, loanTime / 20, true},
		{"a burst does not pay for silence", []int{900, 0, 0}, starvedAfter - 1, true},
		{"late, but it catches up", []int{0, 100}, starvedAfter, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pace
				p.moved(1) // nothing is watched: no effect
				if p.overdue(1) {
					t.Error("overdue before the loan")
				}
				p.begin(1, 1000)
				for _, n := range tt.moves {
					time.Sleep(tt.every) // of the bubble's clock
					p.moved(n)
				}
				if p.overdue(1) {
					t.Error("overdue without a warning")
				}
				if tt.want {
					time.Sleep(starvedTick) // of the bubble's clock
				}
				if got := p.overdue(1); got != tt.want {
					t.Errorf("overdue: %v, want %v", got, tt.want)
				}
				if p.overdue(2) {
					t.Error("overdue to another pool")
				}
				p.end()
				if p.overdue(1) {
					t.Error("overdue after the loan")
				}
			})
		})
	}
}

// slowReceive is tryReceive for a reply that may be long in coming: the next byte is
// awaited until the deadline that is set already.
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
