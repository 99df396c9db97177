package wal

import (
	"fmt"
)

// Frames visits the committed RECORDS and START frames from a position on, where a frame
// begins or a chain ended (any frame's Pos or End, a tail), up to the last durable
// barrier. It returns where to go on: that barrier's end. Changed tells when there is more.
//
// The caller holds a pin at or before from; visit may read payloads under it. ErrFreed
// says that from is no longer there.
func (l *Log) Frames(from int64, visit func(*Frame) error) (next int64, err error) {
	pin, err := l.Pin(from)
	if err != nil {
		return from, err
	}
	defer pin.Release()
	l.mu.Lock()
	until := l.barrier.Pos
	l.mu.Unlock()
	if from >= until {
		return from, nil
	}
	w := newWalker(l.dev, l.geo, false, l.geo.wrapLimit(from))
	w.ahead = alignUp(until, SectorBytes)
	c, err := w.chainFrom(from)
	if err != nil {
		return from, err
	}
	var f Frame
	for c.pos < until {
		h, recs, t, err := w.next(c)
		if err != nil {
			return c.pos, err
		}
		if t != nil {
			return c.pos, fmt.Errorf("read committed frames: %v; the log is durable up to %#x: %w", t, until, ErrCorrupt)
		}
		if h.kind == KindRecords || h.kind == KindStart {
			fillFrame(&f, &h, recs, c.epoch)
			if err := visit(&f); err != nil {
				return c.pos, err
			}
		}
		c = chain{h.end(), h.seq + 1, h.epoch}
	}
	return c.pos, nil
}

// chainFrom is the chain at a position that is known to be one, from the frame that comes
// next there, found by the walker's rules.
func (w *walker) chainFrom(pos int64) (chain, error) {
	line := alignUp(pos, SectorBytes)
	for i, at := range []int64{line, pos, line} {
		head, err := w.bytes(at, LineBytes)
		if err != nil {
			return chain{}, err
		}
		h, why := decodeHeader(w.geo, head)
		if why != nil || h.pos != at {
			continue
		}
		if h.kind != KindStart {
			if i == 0 {
				continue
			}
			return chain{pos, h.seq, h.epoch}, nil
		}
		recs, t, err := w.body(&h)
		if err != nil {
			return chain{}, err
		}
		if t != nil {
			continue
		}
		if k := decodeLink(recs); k.end <= pos {
			return chain{pos, h.seq, k.previous}, nil
		}
	}
	return chain{}, fmt.Errorf("read committed frames: no frame begins at position %#x", pos)
}
