package wal

import (
	"bytes"
	"fmt"
)

// What a scan does with a verified frame: it goes into the state, the state becomes the kept
// one where the cut allows, and the frame is shown as soon as its request is whole.

// apply takes a verified frame into the state and shows it, or holds it back while its
// request is open.
func (s *scanner) apply(h *header, recs []byte, before chain) error {
	s.durable = max(s.durable, h.durable)
	c := &s.cur
	c.at = chain{h.end(), h.seq + 1, h.epoch}
	c.time, c.isStart = h.time, false
	c.prevSummary = max(c.prevSummary, h.prevSummary)
	if s.geo.isBoundary(h.pos) {
		if s.opt.VerifyAll && h.kind == KindSummary {
			if err := s.holdSummary(h); err != nil {
				return err
			}
		}
		at := chain{h.pos, before.seq, before.epoch}
		s.passed = append(s.passed, at)
		c.boundaries++
		s.own.reset(at)
	}
	if s.opt.VerifyAll {
		s.own.add(h, recs, s.geo.segmentStart(h.pos))
	}
	switch h.kind {
	case KindSummary:
		c.summaries++
		c.prevSummary = h.pos
	case KindStart, KindRecords:
		c.frames++
		if h.kind == KindRecords {
			c.records += len(recs) / recordBytes
		}
		if h.flags&FlagBarrier != 0 {
			if s.open {
				return fmt.Errorf("frame at position %#x (seq %d): barrier inside a request: %w", h.pos, h.seq, ErrCorrupt)
			}
			c.barrier = Point{h.end(), h.seq, timeOf(h.time)}
		}
		if h.kind == KindStart {
			c.start, c.isStart = lastStart{h.pos, before}, true
		}
		if err := s.show(h, recs, before); err != nil {
			return err
		}
	}
	if s.opt.Cut == CutPrefix || c.barrier.Pos == c.at.pos {
		s.keep()
	}
	return nil
}

// holdSummary compares a SUMMARY with the frames that were walked.
func (s *scanner) holdSummary(h *header) error {
	b, err := s.w.bytes(h.pos, h.length)
	if err != nil {
		return err
	}
	x, why := decodeSummary(s.geo, h, b[headerBytes+recordBytes:][:h.payload])
	if why == nil && h.flags&FlagIncomplete == 0 && !s.own.over && !bytes.HasSuffix(x.entries, s.own.entries) {
		why = errChain
	}
	if why != nil {
		return fmt.Errorf("summary at position %#x (seq %d) is not what the segment before it holds: %v: %w", h.pos, h.seq, why, ErrCorrupt)
	}
	return nil
}

// keep makes the current state the one that the cut keeps, between requests.
func (s *scanner) keep() {
	if s.opt.Cut == CutBarrier && s.cur.barrier.Pos != s.cur.at.pos {
		return
	}
	if !s.open {
		s.kept = s.cur
	}
}

// show visits a frame once its request is whole, together with what waited for it.
func (s *scanner) show(h *header, recs []byte, before chain) error {
	more := h.flags&FlagMore != 0
	if s.visit == nil {
		s.open = more
		return nil
	}
	if more {
		from := len(s.pending)
		s.pending = append(s.pending, recs...)
		s.queue = append(s.queue, queued{*h, from, len(s.pending), before.epoch})
		s.open = true
		return nil
	}
	for i := range s.queue {
		q := &s.queue[i]
		if err := s.visit(s.fill(&q.h, s.pending[q.from:q.to], q.previous)); err != nil {
			return err
		}
	}
	s.open, s.queue, s.pending = false, s.queue[:0], s.pending[:0]
	return s.visit(s.fill(h, recs, before.epoch))
}

// fill makes the Frame that visit sees. It is one and the same for all visits.
func (s *scanner) fill(h *header, recs []byte, before Epoch) *Frame {
	fillFrame(&s.frame, h, recs, before)
	return &s.frame
}

func fillFrame(f *Frame, h *header, recs []byte, before Epoch) {
	*f = Frame{
		Kind: h.kind, Flags: h.flags, Pos: h.pos, Length: h.length, Seq: h.seq, Epoch: h.epoch,
		Time: timeOf(h.time), Tail: h.tail, DurableUpTo: h.durable, Node: h.node, Records: f.Records[:0],
	}
	if h.kind == KindStart {
		f.Previous = before
		return
	}
	payload := h.pos + headerBytes + int64(len(recs))
	for at := 0; at < len(recs); at += recordBytes {
		r := decodeRecord(recs[at:], payload)
		f.Records = append(f.Records, r)
		payload += int64(r.PayloadLen)
	}
}
