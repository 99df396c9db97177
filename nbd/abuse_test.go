package nbd

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Silent clients can't keep others out: who comes when all places are taken gets that of the
// oldest negotiation, once it had a second. Clients that are attached keep theirs.
func TestSlowNegotiatorsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newEventLog()
		s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}, MaxConns: 4, OnEvent: log.add}
		defer s.Close()
		if err := s.setUp(); err != nil {
			t.Fatal(err)
		}
		connect := func() net.Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close() })
			s.accepted(far)
			return near
		}
		attached := newClient(t, connect())
		attached.chooseExport("")
		for range 3 {
			silent := connect()
			go func() { _, _ = silent.Read(make([]byte, 18)) }() // ends with the connection
		}
		early := connect()
		(&client{t: t, nc: early}).mustBeClosed()
		if e := log.await(t, ofKind(ConnRefused)); e.Conn != 5 {
			t.Errorf("connection %d was refused, want 5", e.Conn)
		}
		time.Sleep(slowAfter) // the test's own clock
		for i := range uint64(2) {
			c := newClient(t, connect())
			c.chooseExport("")
			c.must(cmdRead, 0, 0, 1, nil)
			if e := log.await(t, closedOf(2+i)); e.Reason != reasonSlow {
				t.Errorf("connection %d ended because %q, want %q", 2+i, e.Reason, reasonSlow)
			}
		}
		attached.must(cmdRead, 0, 0, 1, nil)
		if st := s.Stats(); st.Conns != 4 || st.ConnsRefused != 1 {
			t.Errorf("%d connections, %d refused; want 4 and 1", st.Conns, st.ConnsRefused)
		}
		for range 10 { // a flood of them does not get further
			near := connect()
			(&client{t: t, nc: near}).tryGreeting()
		}
		attached.must(cmdRead, 0, 0, 1, nil)
		if st := s.Stats(); st.Conns > 8 {
			t.Errorf("%d connections are open, of at most 4 and as many that end", st.Conns)
		}
	})
}

// tryGreeting takes the greeting, if there is one.
func (c *client) tryGreeting() { _ = c.readInto(make([]byte, 18)) }

// An export whose device fails, or hangs, is no matter to another one's clients.
func TestExportsAreApart(t *testing.T) {
	failing, hanging, good := newMemDisk(1<<20), newMemDisk(1<<20), newMemDisk(1<<20)
	failing.fail = func(what string) error {
		if what == "size" {
			return nil
		}
		return errors.New("medium error")
	}
	release := make(chan struct{})
	hanging.notCached.Store(true)
	hanging.beforeRead = func() { <-release }
	hanging.beforeSync = hanging.beforeRead
	hanging.beforeAdmit = hanging.beforeRead
	path := startServer(t, &Server{Workers: 4, Exports: []Export{
		{Name: "good", Device: good}, {Name: "failing", Device: failing}, {Name: "hanging", Device: hanging},
	}})
	defer close(release)
	for range 4 { // more than its workers can take
		c := connectTo(t, path, "hanging")
		for range 8 {
			c.send(cmdRead, 0, 0, 100<<10, nil)
		}
		c.send(cmdFlush, 0, 0, 0, nil)
		c.send(cmdWrite, 0, 0, 0, make([]byte, 4096))
	}
	bad := connectTo(t, path, "failing")
	c := connectTo(t, path, "good")
	for i := range 50 {
		p := []byte(fmt.Sprintf("%09d", i))
		c.must(cmdWrite, cfFUA, uint64(i*4096), 0, p)
		if got := c.must(cmdRead, 0, uint64(i*4096), 9, nil); string(got.data) != string(p) {
			t.Fatalf("read %q, want %q", got.data, p)
		}
		if r := bad.do(cmdWrite, 0, 0, 0, p); r.errno != EIO {
			t.Fatalf("write to a failing device: %v, want EIO", r.errno)
		}
		if r := bad.do(cmdFlush, 0, 0, 0, nil); r.errno != EIO {
			t.Fatalf("flush of a failing device: %v, want EIO", r.errno)
		}
	}
}

// Clients stuck at each phase of the protocol, many of each, and one that works.
func TestStuckAtEachPhase(t *testing.T) {
	s := &Server{Exports: []Export{{Device: newMemDisk(8 << 20)}}, MaxConns: 200}
	path := startServer(t, s)
	attachAnd := func(send func(c *client)) func() {
		return func() { send(attach(t, path)) }
	}
	phases := map[string]func(){
		"silent":        func() { _, _ = net.Dial("unix", path) },
		"greeted":       func() { dial(t, path) },
		"half option":   func() { dial(t, path).write([]byte("IHAVEOPT\x00\x00")) },
		"half its data": func() { dial(t, path).write(append([]byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x10\x00"), 1, 2)) },
		"attached":      attachAnd(func(*client) {}),
		"half header":   attachAnd(func(c *client) { c.write(encodeRequest(cmdRead, 0, 1, 0, 1, nil)[:20]) }),
		"half payload":  attachAnd(func(c *client) { c.write(encodeRequest(cmdWrite, 0, 1, 0, 4096, make([]byte, 100))) }),
		"half a large one": attachAnd(func(c *client) {
			c.write(encodeRequest(cmdWrite, 0, 1, 0, 1<<20, make([]byte, 100<<10)))
		}),
		"never reading": attachAnd(func(c *client) { flood(t, c, encodeRequest(cmdRead, 0, 1, 0, 64<<10, nil)) }),
	}
	var wg sync.WaitGroup
	for _, stick := range phases {
		for range 8 {
			wg.Go(stick)
		}
	}
	wg.Wait()
	c := attach(t, path)
	for i := range 100 {
		c.must(cmdWrite, 0, uint64(i)*4096, 0, make([]byte, 4096))
		c.must(cmdRead, 0, 0, 256<<10, nil)
	}
	c.must(cmdFlush, 0, 0, 0, nil)
	if held := s.Stats().BufferBytes; held > 48<<20 {
		t.Errorf("%d bytes of buffers are held, want less than all pools together", held)
	}
}
