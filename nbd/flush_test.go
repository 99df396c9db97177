package nbd

import (
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// blockSyncs makes every Sync of d report to entered and wait for a value on release.
func blockSyncs(d *memDisk) (entered, release chan struct{}) {
	entered, release = make(chan struct{}, 100), make(chan struct{})
	d.beforeSync = func() { entered <- struct{}{}; <-release }
	return entered, release
}

// awaitSync returns when the next Sync has entered.
func awaitSync(t *testing.T, entered <-chan struct{}) {
	t.Helper()
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatal("no Sync: it was answered without, or by an older one")
	}
}

// A flush must be answered by a Sync that began after it; those that wait together
// share one; and the reader waits for none of them.
func TestFlushesShareSyncs(t *testing.T) {
	d := newMemDisk(testDisk)
	entered, release := blockSyncs(d)
	path := serveDisk(t, d)
	a, b := attach(t, path), attach(t, path)

	first := a.send(cmdFlush, 0, 0, 0, nil)
	awaitSync(t, entered)
	// The first Sync may have looked at the disk already: it covers none of this.
	a.must(cmdWrite, 0, 0, 0, []byte("x"))
	waiting := make(map[uint64]bool)
	for range 10 {
		waiting[a.send(cmdFlush, 0, 0, 0, nil)] = true
		b.send(cmdFlush, 0, 0, 0, nil)
	}
	waiting[a.send(cmdWrite, cfFUA, 0, 0, []byte("y"))] = true
	waiting[a.send(cmdTrim, cfFUA, 0, 10, nil)] = true
	a.must(cmdRead, 0, 0, 1, nil) // answered while all of them wait: they have arrived
	b.must(cmdRead, 0, 0, 1, nil)

	release <- struct{}{}
	if r := a.receive(); r.cookie != first || r.errno != 0 {
		t.Errorf("first reply %+v, want request %d", r, first)
	}
	awaitSync(t, entered)
	select {
	case <-entered:
		t.Error("a third Sync began")
	default:
	}
	release <- struct{}{}
	for range 12 {
		if r := a.receive(); !waiting[r.cookie] || r.errno != 0 {
			t.Errorf("reply %+v", r)
		}
	}
	for range 10 {
		if r := b.receive(); r.errno != 0 {
			t.Errorf("reply %+v", r)
		}
	}
	if got := d.syncs.Load(); got != 2 {
		t.Errorf("%d Syncs, want 2", got)
	}
}

// FUA on any change, small or large, is answered after a Sync that began after the change.
func TestFUA(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cmd     uint16
		length  uint32
		payload []byte
	}{
		{"small write", cmdWrite, 0, make([]byte, 10)},
		{"large write", cmdWrite, 0, make([]byte, 1<<20)},
		{"trim", cmdTrim, 100, nil},
		{"zero", cmdWriteZeroes, 100, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk(testDisk)
			entered, release := blockSyncs(d)
			c := attach(t, serveDisk(t, d))
			changed := c.send(tt.cmd, cfFUA, 0, tt.length, tt.payload)
			awaitSync(t, entered)
			read := c.send(cmdRead, 0, 0, 1, nil)
			if r := c.receive(); r.cookie != read {
				t.Errorf("reply to %d before the Sync, want only %d", r.cookie, read)
			}
			close(release)
			if r := c.receive(); r.cookie != changed || r.errno != 0 {
				t.Errorf("reply %+v", r)
			}
		})
	}
}

// A batch is told of the flush that came with it, and of FUA, but not of other company.
func TestFlushIsForetold(t *testing.T) {
	write := func(flags uint16) []byte { return encodeRequest(cmdWrite, flags, 1, 0, 512, make([]byte, 512)) }
	flush := encodeRequest(cmdFlush, 0, 2, 0, 0, nil)
	const readCookie = 3
	read := encodeRequest(cmdRead, 0, readCookie, 0, 1, nil)
	for _, tt := range []struct {
		name    string
		sent    []byte
		replies int
		want    int64
	}{
		{"flush", slices.Concat(write(0), write(0), flush), 3, 1},
		{"FUA", write(cfFUA), 1, 1},
		{"FUA first", slices.Concat(write(cfFUA), write(0)), 2, 1},
		{"large with FUA", encodeRequest(cmdWrite, cfFUA, 1, 0, 1<<20, make([]byte, 1<<20)), 1, 1},
		{"read", slices.Concat(write(0), read), 2, 0},
		{"read, then flush", slices.Concat(write(0), read, flush), 3, 0},
		{"nothing", write(0), 1, 0},
		{"flush before", slices.Concat(flush, write(0)), 2, 0},
		{"flushes before and behind", slices.Concat(flush, write(0), flush, write(0)), 4, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk(testDisk)
			c := attach(t, serveDisk(t, d))
			c.lengths[readCookie] = 1
			c.write(tt.sent)
			for range tt.replies {
				c.receive()
			}
			if got := d.foretold.Load(); got != tt.want {
				t.Errorf("%d batches were told of a flush, want %d", got, tt.want)
			}
		})
	}
}

// DISC makes durable what its connection has changed. A connection that has changed
// nothing costs nothing: health probes must not fill the log.
func TestDisconnectSyncs(t *testing.T) {
	for _, tt := range []struct {
		name  string
		do    func(c *client)
		syncs int64
	}{
		{"after nothing", func(*client) {}, 0},
		{"after a read", func(c *client) { c.must(cmdRead, 0, 0, 10, nil) }, 0},
		{"after a write", func(c *client) { c.send(cmdWrite, 0, 0, 0, []byte("x")) }, 1},
		{"after a large write", func(c *client) { c.send(cmdWrite, 0, 0, 0, make([]byte, 1<<20)) }, 1},
		{"after a trim", func(c *client) { c.send(cmdTrim, 0, 0, 10, nil) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, log := newMemDisk(testDisk), newEventLog()
			path := startServer(t, &Server{Exports: []Export{{Device: d}}, OnEvent: log.add})
			c := attach(t, path)
			tt.do(c)
			c.send(cmdDisc, 0, 0, 0, nil)
			e := log.await(t, ofKind(ConnClosed))
			if e.Reason != reasonDisconnected || e.Err != nil {
				t.Errorf("closed because %q: %v", e.Reason, e.Err)
			}
			if got := d.syncs.Load(); got != tt.syncs {
				t.Errorf("%d Syncs, want %d", got, tt.syncs)
			}
		})
	}
}

// DISC does not cut off the replies to what came before it.
func TestDisconnectAnswersFirst(t *testing.T) {
	d := newMemDisk(testDisk)
	entered, release := stall(d)
	c := attach(t, serveDisk(t, d))
	cookie := c.send(cmdWrite, 0, 0, 0, make([]byte, 1<<20))
	<-entered
	c.send(cmdDisc, 0, 0, 0, nil)
	close(release)
	if r := c.receive(); r.cookie != cookie || r.errno != 0 {
		t.Errorf("reply %+v", r)
	}
	c.mustBeClosed()
}

// flushGate is a disk whose flushes can be held, and how long the last of them is taken to have
// been.
type flushGate struct {
	*memDisk
	server           *Server
	client           *client
	held             atomic.Bool
	entered, release chan struct{}
}

func newFlushGate(t *testing.T) *flushGate {
	g := &flushGate{memDisk: newMemDisk(testDisk)}
	entered, release := blockSyncs(g.memDisk)
	g.entered, g.release = entered, release
	hold := g.beforeSync
	g.beforeSync = func() {
		if g.held.Load() {
			hold()
		}
	}
	g.server = &Server{Exports: []Export{{Device: g.memDisk}}}
	g.client = attach(t, startServer(t, g.server))
	t.Cleanup(func() { close(release) }) // a test that has failed leaves no flush behind
	return g
}

// lastTook makes the server believe that of the last flush.
func (g *flushGate) lastTook(d time.Duration) {
	g.server.mu.Lock()
	defer g.server.mu.Unlock()
	g.server.exports[0].flushes.took.Store(int64(d))
}

// flushAndRead sends a flush and, while it is held, a READ, and fails if the READ is held up
// without inPlace, or is not with it.
func (g *flushGate) flushAndRead(t *testing.T, inPlace bool) {
	t.Helper()
	g.held.Store(true)
	defer g.held.Store(false)
	first := g.client.send(cmdFlush, 0, 0, 0, nil)
	awaitSync(t, g.entered)
	second := g.client.send(cmdRead, 0, 0, 1, nil)
	if inPlace {
		time.Sleep(100 * time.Millisecond) // a READ that is not held up is answered meanwhile
		g.release <- struct{}{}
	} else {
		first, second = second, first
	}
	for _, want := range []uint64{first, second} {
		if r := g.client.receive(); r.cookie != want || r.errno != 0 {
			t.Errorf("in place %v: reply %+v, want request %d", inPlace, r, want)
		}
		if !inPlace && want == first {
			g.release <- struct{}{}
		}
	}
}

// A client that waits for its flushes gets them from the reader itself, once they are known to
// be quick. When it sends on during one, that is the last for now: the next flush keeps nothing
// waiting.
func TestFlushInPlace(t *testing.T) {
	g := newFlushGate(t)
	g.lastTook(quickFlush / 2)
	g.flushAndRead(t, true)
	for range 3 {
		g.lastTook(quickFlush / 2)
		g.flushAndRead(t, false)
	}
}

// A flush that may take long is never made where it keeps other requests of its client waiting.
func TestSlowFlushIsNotInPlace(t *testing.T) {
	for _, last := range []time.Duration{0, quickFlush} {
		g := newFlushGate(t)
		g.lastTook(last)
		g.flushAndRead(t, false)
	}
}

// A flush in place that fails is told to its client, who may go on.
func TestFlushInPlaceFails(t *testing.T) {
	g := newFlushGate(t)
	g.fail = func(what string) error {
		if what == "sync" {
			return syscall.EIO
		}
		return nil
	}
	g.lastTook(quickFlush / 2)
	if r := g.client.do(cmdFlush, 0, 0, 0, nil); r.errno != EIO {
		t.Errorf("reply %+v, want EIO", r)
	}
	g.client.must(cmdRead, 0, 0, 1, nil)
}
