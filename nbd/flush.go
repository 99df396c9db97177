package nbd

import (
	"sync"
	"time"
)

// flusher makes an export durable for those who asked. Requests that wait together share
// one Sync, and a request is only ever answered by a Sync that began after it arrived:
// the Sync then covers every write that was replied to before, on any connection. Changes
// with FUA join after they were applied, and so are covered as well.
type flusher struct {
	device Device

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
		err := f.device.Sync()
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

// A client that waits for its flush before it sends more loses nothing when the reader makes
// the flush itself, and gains the two wake-ups that a goroutine costs. One that sends on
// would have to wait. Which kind a client is shows when a flush in place is over: what it has
// sent meanwhile lies in the socket.

// crowdFlushes is for how many flushes a client counts as one that sends on.
const crowdFlushes = 64

// flushesAlone reports whether the reader should make a flush itself: the client has nothing
// else in flight, and did not send on during the last such flush.
func (c *conn) flushesAlone() bool {
	if c.crowd > 0 {
		c.crowd--
		return false
	}
	return c.from == c.to && c.flight.isIdle(0)
}

// flushInPlace makes the flush req and replies.
func (c *conn) flushInPlace(req *request) error {
	// What is collected must not wait for the flush.
	if err := c.sendCollected(); err != nil {
		return err
	}
	err := c.export.Device.Sync()
	if c.moreInSocket() {
		c.crowd = crowdFlushes
	}
	c.count.flushes.Add(1)
	c.replies = c.appendResult(c.replies, req.asked, err)
	c.answered(req, c.received)
	return nil
}
