package wal

import (
	"errors"
	"fmt"
	"time"
)

// A flush, in order:
//
//  1. Nothing is new since the last durable barrier: answer at once.
//  2. Join a round whose barrier will be, or is, behind everything appended so far.
//     Otherwise found the next round, wait for the one that is going on, and lead.
//  3. Lead: append a BARRIER frame, note the head, and see to it that the next frame
//     starts on a new sector, all under appendMu.
//  4. Flush the device, without any lock. There is never more than one flush of it going
//     on from here: a kernel tells of a failed write-back only once, and two flushes side
//     by side could share the failure between them so that one looks good.
//  5. Publish the new durable mark and wake everybody who joined.

// round is one flush of the device and those who wait for it.
type round struct {
	done  chan struct{} // closed when point and err are there
	taken bool          // upTo is there; guarded by Log.mu
	upTo  int64         // end of its barrier
	notes int64         // the durable mark that its barrier frame carries
	point Point
	err   error
}

// Flush makes everything durable that was appended before the call, and returns the
// barrier behind it. Calls that wait together share one flush of the device. A failed
// flush is never repeated: it fails the log, and this and all later calls.
func (l *Log) Flush() (Point, error) { return l.commit(false) }

func (l *Log) commit(soft bool) (Point, error) {
	l.mu.Lock()
	if err := l.usableLocked(); err != nil {
		l.mu.Unlock()
		return Point{}, err
	}
	if l.head == l.barrier.Pos {
		point := l.barrier
		l.mu.Unlock()
		return point, nil
	}
	if r := l.running; r != nil && (!r.taken || r.upTo == l.head) {
		l.mu.Unlock()
		<-r.done
		return r.point, r.err
	}
	if r := l.waiting; r != nil {
		l.mu.Unlock()
		<-r.done
		return r.point, r.err
	}
	r := &round{done: make(chan struct{})}
	l.waiting = r
	before := l.running
	l.mu.Unlock()
	if before != nil {
		<-before.done
	}
	l.lead(r, soft)
	return r.point, r.err
}

// lead is steps 3 to 5.
func (l *Log) lead(r *round, soft bool) {
	l.mu.Lock()
	l.running, l.waiting = r, nil
	l.mu.Unlock()

	point, err := l.appendBarrier(r)
	var flushed bool
	if err == nil {
		flushed = true
		began := time.Now()
		if err = l.flushDevices(); err != nil {
			err = l.fail(fmt.Errorf("flush log up to position %#x: %w", point.Pos, err))
		} else if l.opt.OnFlush != nil {
			l.opt.OnFlush(time.Since(began))
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if flushed {
		l.counts.flushes++
		if soft {
			l.counts.softFlushes++
		}
	}
	if err == nil {
		err = l.failed // an append failed meanwhile: nothing durable advances any more
	}
	if err == nil {
		l.barrierDurableLocked(point)
		l.recorded = max(l.recorded, r.notes)
		r.point = point
	}
	r.err = err
	l.running = nil
	close(r.done)
}

// flushDevices is step 4: the log's device, and side by side with it the others.
func (l *Log) flushDevices() error {
	var other func() error
	if l.opt.FlushBeside != nil {
		other = l.opt.FlushBeside()
	}
	if other == nil {
		return l.dev.Flush()
	}
	beside := make(chan error, 1)
	go func() { beside <- other() }() // ends with the flush; awaited below
	err := l.dev.Flush()
	return errors.Join(err, <-beside)
}

// appendBarrier is step 3. The frame may go into the reserve.
func (l *Log) appendBarrier(r *round) (Point, error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	w := &l.writer
	if _, err := l.beginAppend(); err != nil {
		return Point{}, err
	}
	limit := l.geo.wrapLimit(l.floor.Load())
	w.beginPlan(l.geo)
	w.plan.barrier()
	if w.plan.pos > limit {
		return Point{}, fmt.Errorf("append barrier at position %#x, up to %#x is free: %w", w.at.pos, limit, ErrFull)
	}
	if err := l.write(nil, nil); err != nil {
		return Point{}, err
	}
	w.align = true
	point := Point{w.at.pos, w.at.seq - 1, timeOf(w.time)}
	l.publish(func() {
		l.captured = l.head
		r.upTo, r.notes, r.taken = l.head, w.durable, true
	})
	return point, nil
}

// barrierDurableLocked moves the durable mark to a barrier.
func (l *Log) barrierDurableLocked(point Point) {
	l.durable, l.barrier = point.Pos, point
	l.rememberPointLocked(point)
	l.tellChangedLocked()
}

// wakeSoftFlusher wakes it if enough was appended since the last flush began.
func (l *Log) wakeSoftFlusher() {
	if l.unflushed() < l.opt.SoftFlushBytes {
		return
	}
	select {
	case l.soft <- struct{}{}:
	default:
	}
}

// unflushed is how much no flush has begun to cover.
func (l *Log) unflushed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head - l.captured
}

// softFlusher begins a flush when much was appended and nobody asked for one, so that a
// recovery never has to checksum much more. Close ends it. A failure is the log's, and
// shows at the next call.
func (l *Log) softFlusher() {
	defer close(l.ended)
	for {
		select {
		case <-l.closing:
			return
		case <-l.soft:
		}
		for l.unflushed() >= l.opt.SoftFlushBytes {
			if _, err := l.commit(true); err != nil && !errors.Is(err, ErrFull) {
				return
			} else if err != nil {
				break
			}
		}
	}
}
