package wal

import (
	"fmt"
	"math"
	"slices"
)

// The ring holds positions [floor, head). Records may go up to clientLimit(floor), two
// segments short of the ring; barriers, start frames and the PAD and SUMMARY they need up
// to wrapLimit(floor).
//
// That can't get stuck: a barrier is written only if something was appended since the last
// one, and nothing is appended beyond clientLimit. So at most one barrier, with a PAD and a
// SUMMARY, goes into the reserve, well under a segment. A start frame after a crash takes
// as little, and if crash follows crash, and one segment is left, it takes the place of the
// start frame before it (continue.go). Then the caller frees up to any barrier that is
// already durable.

// maxOffered is how many answers of TailBefore stay good whatever follows.
const maxOffered = 16

// Free gives up everything before tail, which TailBefore returned. The caller has seen to
// it that nothing there is needed after a crash: homes durable, and then the superblock
// with StartAt(tail). Space is reused up to the lowest pin.
func (l *Log) Free(tail int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tail < l.tail {
		return fmt.Errorf("free log up to position %#x: the tail is at %#x already", tail, l.tail)
	}
	start, err := l.startAtLocked(tail)
	if err != nil {
		return fmt.Errorf("free log: %w", err)
	}
	l.tail, l.start = tail, start
	l.points = slices.DeleteFunc(l.points, func(p Point) bool { return p.Pos < tail })
	l.boundaries = slices.DeleteFunc(l.boundaries, func(c chain) bool { return c.pos < tail })
	l.offered = slices.DeleteFunc(l.offered, func(s Start) bool { return s.Tail < tail })
	l.updateFloorLocked()
	return nil
}

// TailBefore is the largest known position up to limit that may become the tail: a segment
// boundary or the end of a barrier, not beyond the last durable barrier. It is the present
// tail if there is nothing better. StartAt and Free take it until a later one was freed;
// only the last 16 answers are sure to be good.
func (l *Log) TailBefore(limit int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	best := l.tail
	defer func() { l.offerLocked(best) }()
	limit = min(limit, l.barrier.Pos)
	for i := len(l.boundaries) - 1; i >= 0; i-- {
		if pos := l.boundaries[i].pos; pos <= limit {
			best = max(best, pos)
			break
		}
	}
	for i := len(l.points) - 1; i >= 0; i-- {
		if pos := l.points[i].Pos; pos <= limit {
			best = max(best, pos)
			break
		}
	}
	return best
}

// StartAt is the Start that the superblock stores for a tail at pos.
func (l *Log) StartAt(pos int64) (Start, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.startAtLocked(pos)
}

func (l *Log) startAtLocked(pos int64) (Start, error) {
	if pos == l.tail {
		return l.startLocked(l.start), nil
	}
	for _, p := range l.points {
		if p.Pos == pos {
			return l.startLocked(Start{Tail: pos, TailSeq: p.Seq + 1, Epoch: l.epoch}), nil
		}
	}
	for _, b := range l.boundaries {
		if b.pos == pos && pos <= l.barrier.Pos {
			return l.startLocked(Start{Tail: pos, TailSeq: b.seq, Epoch: b.epoch}), nil
		}
	}
	for _, s := range l.offered {
		if s.Tail == pos {
			return l.startLocked(s), nil
		}
	}
	return Start{}, fmt.Errorf("log can't start at position %#x: neither a live segment boundary nor a durable barrier", pos)
}

// startLocked is s with what is durable now.
func (l *Log) startLocked(s Start) Start {
	s.DurableUpTo = l.durable
	return s
}

// offerLocked remembers a possible tail that was told to somebody.
func (l *Log) offerLocked(pos int64) {
	s, err := l.startAtLocked(pos)
	if err != nil || slices.ContainsFunc(l.offered, func(o Start) bool { return o.Tail == pos }) {
		return
	}
	if len(l.offered) == maxOffered {
		l.offered = slices.Delete(l.offered, 0, 1)
	}
	l.offered = append(l.offered, s)
}

// rememberPointLocked keeps a barrier as a possible tail: always the last one, and of the
// older ones those that are a quarter of a segment apart.
func (l *Log) rememberPointLocked(p Point) {
	if n := len(l.points); n >= 2 && l.points[n-1].Pos-l.points[n-2].Pos < l.geo.seg/4 {
		l.points[n-1] = p
		return
	}
	l.points = append(l.points, p)
}

// Pin holds the log from a position on: its space is not reused. Pins are for readers.
type Pin struct {
	log *Log
	pos int64 // guarded by Log.mu
}

// Pin makes a pin at pos, which is live, or ErrFreed.
func (l *Log) Pin(pos int64) (*Pin, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if floor := l.floor.Load(); pos < floor {
		return nil, fmt.Errorf("pin log at position %#x, live from %#x on: %w", pos, floor, ErrFreed)
	}
	p := &Pin{l, pos}
	l.pins[p] = struct{}{}
	return p, nil
}

// Move takes the pin forward to pos. It never goes back.
func (p *Pin) Move(pos int64) {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	p.pos = max(p.pos, pos)
	p.log.updateFloorLocked()
}

// Release takes the pin away. Doing it twice does nothing.
func (p *Pin) Release() {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	delete(p.log.pins, p)
	p.log.updateFloorLocked()
}

// updateFloorLocked follows tail and pins. Neither of them goes back below the floor.
func (l *Log) updateFloorLocked() {
	floor := int64(math.MaxInt64)
	for p := range l.pins {
		floor = min(floor, p.pos)
	}
	floor = min(floor, l.tail)
	if now := l.floor.Load(); floor < now {
		panic(fmt.Sprintf("wal: floor goes back from %#x to %#x", now, floor))
	}
	l.floor.Store(floor)
}
