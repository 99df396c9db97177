package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// Shutdown finishes what it has, refuses what comes later, and then closes.
func TestShutdownDrains(t *testing.T) {
	bothKinds(t, func(t *testing.T, attach func(testing.TB, string) *client) {
		d := newMemDisk(1 << 20)
		entered, release := stall(d)
		s := &Server{Exports: []Export{{Device: d}}}
		path := startServer(t, s)
		busy, idle := attach(t, path), attach(t, path)
		waiting := dial(t, path) // still negotiates
		first := busy.send(cmdWrite, 0, 0, 0, make([]byte, 1<<20))
		<-entered

		done := make(chan error, 1)
		go func() { done <- s.Shutdown(context.Background()) }()
		idle.mustBeClosed()
		waiting.mustBeClosed()
		// With simple replies the client may be the kernel: it gets no error, but the end.
		late := func(cmd uint16, payload []byte) {
			if !busy.structured && !busy.extended {
				busy.send(cmd, 0, 0, 0, payload)
			} else if r := busy.do(cmd, 0, 0, 0, payload); r.errno != ESHUTDOWN {
				t.Errorf("command %d of %d bytes while stopping: %v, want ESHUTDOWN", cmd, len(payload), r.errno)
			}
		}
		for _, cmd := range []uint16{cmdRead, cmdTrim, cmdFlush} {
			late(cmd, nil)
		}
		for _, n := range []int{1, 100 << 10} {
			late(cmdWrite, bytes.Repeat([]byte{7}, n))
		}
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("a new connection was accepted while stopping")
		}
		close(release)
		if r := busy.receive(); r.cookie != first || r.errno != 0 {
			t.Errorf("reply to what was in flight: %+v", r)
		}
		busy.mustBeClosed()
		if bytes.IndexByte(d.content(0, 1<<20), 7) >= 0 {
			t.Error("a write that came while stopping was performed")
		}
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		l, err := Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(l); !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve after Shutdown: %v, want ErrServerClosed", err)
		}
	})
}

// A payload that does not come to its end does not hold Shutdown up.
func TestShutdownDoesNotWaitForPayload(t *testing.T) {
	d := newMemDisk(1 << 20)
	s := &Server{Exports: []Export{{Device: d}}}
	path := startServer(t, s)
	for _, n := range []int{100, 200 << 10} {
		c := attach(t, path)
		c.write(encodeRequest(cmdWrite, 0, 1, 0, uint32(n), make([]byte, n/2)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if got := d.writes.Load(); got != 0 {
		t.Errorf("%d writes were applied", got)
	}
}

// Shutdown gives up when its context ends; Close then drops what was not applied.
func TestCloseAfterShutdownFailed(t *testing.T) {
	for _, n := range []int{100, 1 << 20} {
		d := newMemDisk(1 << 20)
		entered, release := stall(d)
		s := &Server{Exports: []Export{{Device: d}}}
		c := attach(t, startServer(t, s))
		c.send(cmdWrite, 0, 0, 0, append([]byte("ghost"), make([]byte, n)...)[:n])
		<-entered
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v, want the context's error", err)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		c.mustBeClosed()
		close(release)
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		if got := d.content(0, 1)[0]; got != 0 {
			t.Error("a write was applied after Close")
		}
	}
}

// A server that never served can be shut down and closed, any number of times.
func TestShutdownOfNothing(t *testing.T) {
	for _, s := range []*Server{{}, {Exports: []Export{{Device: newMemDisk(1)}}}} {
		for range 2 {
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// flakyListener fails a few times before it works.
type flakyListener struct {
	net.Listener
	failures chan error
}

func (l flakyListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.failures:
		return nil, err
	default:
		return l.Listener.Accept()
	}
}

func TestServeSurvivesShortages(t *testing.T) {
	inner, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := flakyListener{inner, make(chan error, 10)}
	for _, e := range shortages[:3] {
		l.failures <- &net.OpError{Op: "accept", Err: e}
	}
	log := newEventLog()
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}, OnEvent: log.add}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	nc, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, nc)
	c.chooseExport("")
	c.must(cmdRead, 0, 0, 10, nil)
	log.await(t, ofKind(AcceptFailed))
	_ = s.Close()
	if err := <-served; !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeReportsBrokenListener(t *testing.T) {
	l, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	defer s.Close()
	if err := s.Serve(l); err == nil || errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve on a closed listener: %v, want its error", err)
	}
}

// Connections over the limit are closed at once; when others end, there is room again.
func TestMaxConns(t *testing.T) {
	log := newEventLog()
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}, MaxConns: 2, OnEvent: log.add}
	path := startServer(t, s)
	a, _ := attach(t, path), attach(t, path)
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	(&client{t: t, nc: nc}).mustBeClosed()
	if e := log.await(t, ofKind(ConnRefused)); e.Err == nil || e.Conn != 3 {
		t.Errorf("event %+v", e)
	}
	_ = a.nc.Close()
	log.await(t, closedOf(1))
	awaitConns(t, s, 1) // the event comes just before the count
	attach(t, path).must(cmdRead, 0, 0, 1, nil)
	if st := s.Stats(); st.ConnsTotal != 4 || st.ConnsRefused != 1 || st.Conns != 2 || st.MaxConns != 2 {
		t.Errorf("stats %+v", st)
	}
}

// The sums of the events and of the statistics are those of what was done.
func TestStats(t *testing.T) {
	log := newEventLog()
	s := &Server{Exports: []Export{{Name: "x", Device: newMemDisk(1 << 20)}}, OnEvent: log.add}
	c := attach(t, startServer(t, s))
	c.must(cmdWrite, 0, 0, 0, make([]byte, 100))
	c.must(cmdWrite, 0, 0, 0, make([]byte, 100<<10))
	c.must(cmdRead, 0, 0, 50, nil)
	c.must(cmdRead, 0, 0, 100<<10, nil)
	c.must(cmdFlush, 0, 0, 0, nil)
	c.must(cmdTrim, 0, 0, 10, nil)
	c.do(cmdRead, 0, 1<<30, 1, nil)
	check := func(when string) {
		t.Helper()
		st := s.Stats()
		st.Conns, st.MaxConns, st.BufferBytes = 0, 0, 0
		want := Stats{
			ConnsTotal: 1, Requests: 7, Failed: 1, Reads: 2, Writes: 3, Flushes: 1,
			BytesRead: 50 + 100<<10, BytesWritten: 100 + 100<<10,
		}
		if when != "live" {
			want.Requests++ // DISC
		}
		if st != want {
			t.Errorf("%s: %+v, want %+v", when, st, want)
		}
	}
	check("live")
	c.send(cmdDisc, 0, 0, 0, nil)
	e := log.await(t, ofKind(ConnClosed))
	if e.Export != "x" || e.Requests != 8 || e.Failed != 1 || e.BytesRead != 50+100<<10 {
		t.Errorf("event %+v", e)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	check("ended")
	if held := s.Stats().BufferBytes; held != 0 {
		t.Errorf("%d bytes of buffers are still held", held)
	}
}

// A connection that comes and goes without a byte, or with garbage, leaves nothing.
func TestGarbageConnections(t *testing.T) {
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	path := startServer(t, s)
	for i := range 1000 {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		garbage := make([]byte, i%200)
		for j := range garbage {
			garbage[j] = byte(i*31 + j*17)
		}
		_, _ = nc.Write(garbage) // the server may have closed it already
		if i%3 == 0 {
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.ReadFull(nc, make([]byte, 18))
		}
		_ = nc.Close()
	}
	awaitConns(t, s, 0)
	attach(t, path).must(cmdRead, 0, 0, 1, nil)
}

// awaitConns waits until no more than n connections are open.
func awaitConns(t *testing.T, s *Server, n int) {
	t.Helper()
	for start := time.Now(); s.Stats().Conns > n; runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatalf("%d connections are still open, want %d", s.Stats().Conns, n)
		}
	}
}
