package nbd

import (
	"sync"
	"sync/atomic"
	"time"
)

// flusher makes an export durable for those who asked. Requests that wait together share
// one Sync, and a request is only ever answered by a Sync that began after it arrived:
// the Sync then covers every write that was replied to before, on any connection. Changes
// with FUA join after they were applied, and so are covered as well.
type flusher struct {
	device Device

	took atomic.Int64 // by the last Sync, in ns; 0 before the first

	mu      sync.Mutex
	waiting []flushWait
	spare   []flushWait // the last list, empty
	running bool        // a goroutine is syncing
	loop    func()      // run, made once: a method named in a go statement is allocated each time
}

// flushWait is a request that waits for a Sync.
type flushWait struct {
	c        *conn
	req      request
	received time.Time
}

// add answers c's request, which was received then, when what was done so far is durable. c
// has counted it in its flight. add does not block.
func (f *flusher) add(c *conn, req *request, received time.Time) {
	f.mu.Lock()
	f.waiting = append(f.waiting, flushWait{c, *req, received})
	if !f.running {
		f.running = true
		if f.loop == nil {
			f.loop = f.run
		}
		go f.loop() // ends when nobody waits; connections wait for their requests
	}
	f.mu.Unlock()
}

// run syncs until nobody waits.
func (f *flusher) run() {
	for {
		f.mu.Lock()
		group := f.waiting
		f.waiting, f.spare = f.spare[:0], nil
		f.running = len(group) > 0
		f.mu.Unlock()
		if len(group) == 0 {
			return
		}
		err := f.sync()
		for i := range group {
			w := &group[i]
			w.c.answered(&w.req, w.received)
			w.c.postResult(w.req.asked, err)
		}
		for _, w := range group {
			w.c.outbox.kick() // finds nothing to do for all but the first of a connection
			w.c.count.flushes.Add(1)
			w.c.flight.flushed()
		}
		clear(group)
		f.mu.Lock()
		f.spare = group[:0]
		f.mu.Unlock()
	}
}

// sync is the device's Sync, timed.
func (f *flusher) sync() error {
	began := time.Now()
	err := f.device.Sync()
	f.took.Store(int64(time.Since(began)))
	return err
}

// quick reports whether a Sync is likely to be over soon.
func (f *flusher) quick() bool {
	took := f.took.Load()
	return took > 0 && took < int64(quickFlush)
}

// A client that waits for its flush before it sends more loses nothing when the reader makes
// the flush itself, and gains the wake-ups that a goroutine costs, half of the server's work
// for a small write and its flush. One that sends on would have to wait. Which kind a client
// is shows when a flush in place is over: what it has sent meanwhile lies in the socket.

const (
	// quickFlush: a device whose last flush took longer never makes a reader wait.
	quickFlush = time.Millisecond
	// minCrowd and maxCrowd are for how many flushes a client counts as one that sends on. It
	// is twice as long each time that it does.
	minCrowd, maxCrowd = 64, 4096
)

// crowd is what a reader knows of its client's way with flushes.
type crowd struct {
	left int // flushes to leave to others
	next int // how many the next time
}

// flushesAlone reports whether the reader should make a flush itself: that will be quick, and
// the client has nothing else in flight and did not send on during the last.
func (c *conn) flushesAlone() bool {
	if c.crowd.left > 0 {
		c.crowd.left--
		return false
	}
	return c.from == c.to && c.export.flushes.quick() && c.flight.isIdle(0)
}

// flushInPlace makes the flush req and replies.
func (c *conn) flushInPlace(req *request) error {
	// What is collected must not wait for the flush.
	if err := c.sendCollected(); err != nil {
		return err
	}
	err := c.export.flushes.sync()
	if c.moreInSocket() {
		c.crowd.next = min(max(2*c.crowd.next, minCrowd), maxCrowd)
		c.crowd.left = c.crowd.next
	}
	c.count.flushes.Add(1)
	c.replies = c.appendResult(c.replies, req.asked, err)
	c.answered(req, c.received)
	return nil
}
