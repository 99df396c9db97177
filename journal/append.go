package journal

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"jnbd/disk"
	"jnbd/ordered"
	"jnbd/wal"
)

// A change, from the call to its place in the order (P1):
//
//  1. Turn the requests into records; payloads stay in the caller's buffers.
//  2. Queue. Who finds no leader leads: it takes all that wait, its own included, as one
//     append, and afterwards hands the lead to the first that came meanwhile.
//  3. The leader slows down as the log fills (pace.go), and asks every caller whether its
//     connection still lives (admit). What is refused here never happened.
//  4. Append: one gathered write gives all of them their place, and on return they survive
//     the death of this process (P2).
//  5. Enter them into the overlay, in the same order, and only then let go of the lock:
//     who holds it sees log and overlay agree.
//  6. Wake the callers. Durability against power loss is Sync's, not ours (commit.go).
//
// A log that is full makes step 4 wait for the checkpointer; it is never an error (P7).

// pending is one call's changes on their way. It is reused; done and turn carry one token a use.
type pending struct {
	recs        []wal.Record
	bytes       int64                // payload that goes into the log
	clientBytes int64                // of a direct write, all that the client sent
	direct      *ordered.Reservation // of a direct write
	flush       bool                 // a Sync follows
	admit       func() bool
	err         error
	done        chan verdict

	pieces []piece // of a direct write, the data that goes out once

	// Of bulk for spare past the page cache (gather.go).
	unwritten error // why the data is not in its slots
	turn      chan verdict
}

type verdict uint8

const (
	finished verdict = iota
	leadNow          // you are the first in the queue, and there is no leader
)

// newPending takes one from the disk's pool; release gives it back.
func (d *Disk) newPending() *pending {
	if p, ok := d.pendings.Get().(*pending); ok {
		return p
	}
	return &pending{done: make(chan verdict, 1), turn: make(chan verdict, 1)}
}

// queue holds what waits for a leader: one of those who wait, who does what there is to do for several
// and then hands the lead on. The zero value is ready.
type queue struct {
	mu      sync.Mutex
	waiting []*pending // guarded by mu
	led     bool       // guarded by mu; somebody leads
}

// add queues changes, one behind the other. It reports whether the first is to lead.
func (q *queue) add(changes ...*pending) (lead bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, changes...)
	lead = !q.led
	q.led = true
	return lead
}

// take appends to dst those at the front for which fits is true. Only the leader calls it.
func (q *queue) take(dst []*pending, fits func(*pending) bool) []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.waiting) && fits(q.waiting[n]) {
		n++
	}
	dst = append(dst, q.waiting[:n]...)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	return dst
}

// next ends the lead. It returns who is to be told to lead now, or nil if nobody waits.
func (q *queue) next() *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 {
		return q.waiting[0]
	}
	q.led = false
	return nil
}

// WriteAt writes p at off: ordered, whole or not at all, safe against the death of the
// process on return. It is the backend contract of other Go NBD servers, and a batch of one.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.WriteBatch([][]byte{p}, []int64{off}, false, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteBatch performs writes in the order given, each whole or not at all. admit, if not
// nil, is asked under the lock that gives the order, right before the batch gets its place;
// when it reports false nothing is done and ErrDropped is returned. It is asked again if the
// batch had to wait for space, or is too large for one append and goes on in a second.
//
// flush says that a Sync follows: the batch then ends with the barrier that Sync would have
// to write. It makes nothing durable, and a Sync need not follow.
func (d *Disk) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	if err := d.writable(); err != nil {
		return err
	}
	p := d.newPending()
	defer d.release(p)
	for i, b := range data {
		n := int64(len(b))
		if err := d.inRange("write", offsets[i], n); err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		need := n + (n/int64(d.maxPayload)+1)*wal.RecordOverhead
		if need > d.maxRequest {
			return fmt.Errorf("write %d bytes at %d: at most %d fit into a log of this size at once: %w", n, offsets[i], d.maxRequest, ErrTooBig)
		}
		if p.logBytes()+need > d.maxRequest {
			if err := d.submit(p, admit); err != nil {
				return err
			}
			p.reset()
		}
		if d.routes.write(n) == writeOnce {
			// What came before keeps its place before it.
			if len(p.recs) > 0 {
				if err := d.submit(p, admit); err != nil {
					return err
				}
				p.reset()
			}
			handled, err := d.writeDirect(b, offsets[i], flush && i == len(data)-1, admit)
			if handled && err != nil {
				return err
			}
			if handled {
				continue
			}
			d.once.direct.Store(false)
		}
		p.recs = appendData(p.recs, b, offsets[i], d.maxPayload)
		p.bytes += n
	}
	if len(p.recs) == 0 {
		return nil
	}
	p.flush = flush
	return d.submit(p, admit)
}

// Zero makes [off, off+n) read as zeros, ordered and safe like a write, at the cost of one
// record whatever n is. With punch the host may have the space at the next checkpoint.
func (d *Disk) Zero(off, n int64, punch bool, admit func() bool) error {
	aux := uint32(keepSpace)
	if punch {
		aux = 0
	} else if err := d.provision(off, n); err != nil {
		return err
	}
	return d.change("zero", wal.Record{Kind: KindZero, Aux: aux, A: uint64(off), B: uint64(n)}, admit)
}

// provision makes sure that the homes of [off, off+n) have space, before anything is promised.
// A host that is full refuses this one request; the disk goes on.
func (d *Disk) provision(off, n int64) error {
	if err := d.inRange("zero", off, n); err != nil {
		return err
	}
	if err := d.writable(); err != nil {
		return err
	}
	err := disk.Allocate(d.home, off, n)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("keep space for [%d, +%d): %w", off, n, err)
	}
	return nil
}

// Trim declares [off, off+n) unneeded: it reads as zeros from then on, and the host has the
// space once a checkpoint has passed. Ordered and safe like a write.
func (d *Disk) Trim(off, n int64, admit func() bool) error {
	return d.change("trim", wal.Record{Kind: KindTrim, A: uint64(off), B: uint64(n)}, admit)
}

func (d *Disk) change(what string, r wal.Record, admit func() bool) error {
	if err := d.inRange(what, int64(r.A), int64(r.B)); err != nil {
		return err
	}
	if r.B == 0 {
		return nil
	}
	p := d.newPending()
	defer d.release(p)
	p.recs = append(p.recs, r)
	return d.submit(p, admit)
}

// submit queues p and returns when it has its place, or never will.
func (d *Disk) submit(p *pending, admit func() bool) error {
	if err := d.writable(); err != nil {
		return err
	}
	p.admit, p.err = admit, nil
	if d.queue.add(p) || <-p.done == leadNow {
		d.lead(p)
	}
	return p.err
}

// submitAll is submit for several, which are appended together if they fit. Each has its outcome in err.
func (d *Disk) submitAll(all []*pending) {
	if len(all) == 0 {
		return
	}
	if err := d.writable(); err != nil {
		fail(all, err)
		return
	}
	lead := d.queue.add(all...)
	for _, p := range all {
		if lead || <-p.done == leadNow {
			d.lead(p)
			lead = false
		}
	}
}

// lead runs what waits, with own at its front, and hands the lead on.
func (d *Disk) lead(own *pending) {
	batch := d.takeBatch()
	d.run(batch)
	for _, p := range batch {
		if p != own {
			p.done <- finished
		}
	}
	if p := d.queue.next(); p != nil {
		p.done <- leadNow
	}
}

// takeBatch takes from the queue what fits into one append; at least the first.
func (d *Disk) takeBatch() []*pending {
	bytes := int64(0)
	d.batch = d.queue.take(d.batch[:0], func(p *pending) bool {
		first := bytes == 0
		bytes += p.logBytes()
		return first || bytes <= d.maxRequest
	})
	return d.batch
}

// logBytes is what p weighs in the log, near enough for batching.
func (p *pending) logBytes() int64 { return p.bytes + int64(len(p.recs))*wal.RecordOverhead }

// run gives a batch its place, waiting for space where it must. Only the leader calls it.
func (d *Disk) run(batch []*pending) {
	for {
		var bytes int64
		for _, p := range batch {
			bytes += p.logBytes()
		}
		d.pace.hold(d, bytes)
		freed := d.space.next()
		err := d.place(batch)
		if !errors.Is(err, wal.ErrFull) {
			return
		}
		d.starving.Store(true)
		d.kickCheckpoint()
		select {
		case <-freed:
		case <-d.stopped:
			fail(batch, ErrClosed)
			return
		}
	}
}

// place appends what is admitted and enters it into the overlay. wal.ErrFull means: nothing
// happened, try again when there is space. Any other outcome stands in the pendings.
func (d *Disk) place(batch []*pending) error {
	d.appendMu.Lock()
	defer d.appendMu.Unlock()
	if err := d.writable(); err != nil {
		fail(batch, err)
		return nil
	}
	for _, p := range batch {
		p.err = nil
		if p.admit != nil && !p.admit() {
			p.err = ErrDropped
		}
	}
	sealDirect(batch)
	recs := d.recs[:0]
	var bytes int64
	flush := false
	for _, p := range batch {
		if p.err == nil {
			recs = append(recs, p.recs...)
			flush = flush || p.flush
			bytes += max(p.bytes, p.clientBytes)
		}
	}
	d.recs = recs
	defer clear(recs) // the payloads are the callers' again
	if len(recs) == 0 {
		return nil
	}
	if extents, _ := d.overlay.size(); extents > 0 && int64(extents+2*len(recs)) > d.maxExtents.Load() {
		unsealDirect(batch)
		return wal.ErrFull // of memory: the checkpointer makes room, too
	}
	d.pos = grow(d.pos, len(recs))
	write := d.log.Append
	if flush {
		write = d.log.AppendBarrier
	}
	if err := write(recs, d.pos); err != nil {
		switch {
		case errors.Is(err, wal.ErrFull):
			unsealDirect(batch)
			return err
		case errors.Is(err, wal.ErrTooBig):
			fail(batch, fmt.Errorf("%w: %w", ErrTooBig, err)) // nothing was done
			return nil
		}
		fail(batch, d.poisonWith(fmt.Errorf("append to the log: %w", err)))
		return nil
	}
	d.enter(batch)
	now := time.Now()
	d.lastChange.Store(int64(now.Sub(d.started)))
	d.lag.changed(d.pos[len(recs)-1], now)
	d.counters.clientBytes.Add(uint64(bytes))
	return nil
}

// enter is step 5: what was appended becomes what is read. d.pos has its positions.
func (d *Disk) enter(batch []*pending) {
	d.overlay.mu.Lock()
	defer d.overlay.mu.Unlock()
	at := 0
	for _, p := range batch {
		if p.err != nil {
			continue
		}
		for i := range p.recs {
			e := appended(&p.recs[i], d.pos[at])
			if p.direct != nil && e.state >= mappedSpare {
				d.overlay.clearLocked(e.off, e.end) // its reservation does the rest
				d.once.fresh.put(e)
			} else {
				d.applyLocked(&e)
			}
			at++
		}
		if p.direct != nil {
			p.direct.Apply(zeroPos(d.pos[at-1]))
		}
	}
}

// appended is what a record that was just written at pos means.
func appended(r *wal.Record, pos int64) extent {
	e := extent{off: int64(r.A), end: int64(r.A + r.B), pos: zeroPos(pos), state: zeroed}
	switch {
	case r.Kind == KindData:
		e.pos, e.state, e.end = pos, logged, e.off+int64(len(r.Payload))
	case r.Kind == KindZero && r.Aux == keepSpace:
		e.state = zeroKept
	case r.Kind == KindMap:
		e.state, e.end = mappedHome, e.off+int64(r.B&(1<<mapBlockBits-1))*blockBytes
	case r.Kind == KindHome:
		e.state = broughtHome
	}
	return e
}

func fail(batch []*pending, err error) {
	for _, p := range batch {
		if p.err == nil {
			p.err = err
		}
	}
}

func (p *pending) reset() {
	clear(p.recs)
	p.recs, p.bytes, p.clientBytes, p.flush = p.recs[:0], 0, 0, false
}

func (d *Disk) release(p *pending) {
	p.reset()
	p.admit, p.err, p.direct, p.unwritten = nil, nil, nil, nil
	clear(p.pieces)
	p.pieces = p.pieces[:0]
	d.pendings.Put(p)
}

func grow(s []int64, n int) []int64 {
	if cap(s) < n {
		return make([]int64, n, 2*n)
	}
	return s[:n]
}
