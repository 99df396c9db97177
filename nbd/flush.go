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
