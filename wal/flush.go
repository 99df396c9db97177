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
//  3. Lead: if a barrier stands behind all that is to be covered, because the append foresaw
//     the flush, take that. Otherwise append a BARRIER frame, note the head, and see to it
//     that the next frame starts on a new sector, all under appendMu.
//  4. Flush the device, without any lock. There is never more than one flush of it going
//     on from here: a kernel tells of a failed write-back only once, and two flushes side
//     by side could share the failure between them so that one looks good.
//  5. Publish the new durable mark and wake everybody who joined.

// round is one flush of the device and those who wait for it.
type round struct {
	done  chan struct{} // closed when point and err are there
	need  int64         // what its barrier must be behind; guarded by Log.mu
	taken bool          // at is there; guarded by Log.mu
	at    barrierFrame
	point Point // of at, once it is durable
	err   error
}

// barrierFrame is a barrier in the log, durable or not.
type barrierFrame struct {
	Point
	notes  int64 // the durable mark that its frame carries
	beside int64 // Log.beside at its end
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
	if r := l.running; r != nil && (!r.taken || r.at.Pos == l.head) {
		r.need = l.head
		l.mu.Unlock()
		<-r.done
		return r.point, r.err
	}
	if r := l.waiting; r != nil {
		r.need = l.head
		l.mu.Unlock()
		<-r.done
		return r.point, r.err
	}
	r := &round{done: make(chan struct{}), need: l.head}
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
	foreseen := l.ahead.Pos >= r.need && l.usableLocked() == nil
	if foreseen {
		l.takeLocked(r, l.ahead)
	}
	l.mu.Unlock()

	var err error
	if !foreseen {
		err = l.appendBarrier(r)
	}
	var flushed bool
	if err == nil {
		flushed = true
		began := time.Now()
		if err = l.flushDevices(); err != nil {
			err = l.fail(fmt.Errorf("flush log up to position %#x: %w", r.at.Pos, err))
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
		l.barrierDurableLocked(r.at.Point)
		l.recorded = max(l.recorded, r.at.notes)
		r.point = r.at.Point
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

// appendBarrier is step 3, where no append has done it. The frame may go into the reserve.
func (l *Log) appendBarrier(r *round) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	w := &l.writer
	if _, _, err := l.beginAppend(); err != nil {
		return err
	}
	limit := l.geo.wrapLimit(l.floor.Load())
	w.beginPlan(l.geo)
	w.plan.barrier()
	if w.plan.pos > limit {
		return fmt.Errorf("append barrier at position %#x, up to %#x is free: %w", w.at.pos, limit, ErrFull)
	}
	if err := l.write(nil, nil); err != nil {
		return err
	}
	l.publish(func() { l.takeLocked(r, l.lastFrameLocked()) })
	return nil
}

// takeLocked makes at the barrier of r, and nobody joins r any more who needs a later one.
func (l *Log) takeLocked(r *round, at barrierFrame) {
	r.at, r.taken = at, true
	l.captured, l.besideCaptured = at.Pos, at.beside
	if l.sinceFlush == 1 {
		l.lone++
	} else {
		l.lone = 0
	}
	l.sinceFlush = 0
}

// lastFrameLocked is the frame at the head, which is a barrier. The caller holds appendMu, too.
func (l *Log) lastFrameLocked() barrierFrame {
	w := &l.writer
	return barrierFrame{Point{w.at.pos, w.at.seq - 1, timeOf(w.time)}, w.durable, l.beside}
}

// loneFlushes is after how many flushes in a row, each for one append, the next append is taken
// to be followed by a flush as well.
const loneFlushes = 4

// foreseesFlushLocked reports whether a flush is likely to follow the next append.
func (l *Log) foreseesFlushLocked() bool { return l.sinceFlush == 0 && l.lone >= loneFlushes }

// barrierDurableLocked moves the durable mark to a barrier.
func (l *Log) barrierDurableLocked(point Point) {
	l.durable, l.barrier = point.Pos, point
	l.rememberPointLocked(point)
	l.tellChangedLocked()
}

// wakeSoftFlusher wakes it if it has to do.
func (l *Log) wakeSoftFlusher() {
	if !l.wantsSoftFlush() {
		return
	}
	select {
	case l.soft <- struct{}{}:
	default:
	}
}

// wantsSoftFlush reports whether much was written since the last flush began.
func (l *Log) wantsSoftFlush() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head-l.captured >= l.opt.SoftFlushBytes || l.beside-l.besideCaptured >= l.opt.SoftFlushBeside
}

// softFlusher begins a flush when much was written and nobody asked for one, so that a
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
		for l.wantsSoftFlush() {
			if _, err := l.commit(true); err != nil && !errors.Is(err, ErrFull) {
				return
			} else if err != nil {
				break
			}
		}
	}
}
