package wal

import (
	"fmt"
	"math"

	"jnbd/disk"
)

// How a scan goes:
//
//  1. Read the header at every segment boundary after the tail. Each valid one says up to
//     where the log was durable when it was written; the largest is D.
//  2. From the tail on, segment by segment: one that lies wholly below D is taken from the
//     SUMMARY that follows it; any other is read frame by frame, with all checksums.
//  3. Where no next frame verifies, the chain ends. Below D that is corruption. Above, look
//     further on for a frame that says this place was durable (evidence.go): if there is
//     one it is corruption too, otherwise the end of the log.
//  4. Keep what the cut says: whole requests, or up to the last barrier. A durable mark is
//     always the end of a barrier, so no cut goes below D.
//
// A scan for CutBarrier walks twice, because it must not show what it will not keep.

// Scan reads the log from opt.Start to its end and calls visit for the RECORDS and START
// frames that the cut keeps, in order. It never writes. A torn tail is not an error; the
// result says what was dropped. Errors are ErrCorrupt, ErrTooNew, those of the device and
// those of visit. visit may be nil.
func Scan(dev disk.Device, opt ScanOptions, visit func(*Frame) error) (*ScanResult, error) {
	geo, err := geometryOf(dev)
	if err != nil {
		return nil, fmt.Errorf("scan log: %w", err)
	}
	if err := checkStart(geo, opt.Start); err != nil {
		return nil, fmt.Errorf("scan log: %w", err)
	}
	s := newScanner(dev, geo, opt)
	if !opt.Live {
		if err := s.readBoundaries(); err != nil {
			return nil, fmt.Errorf("scan log: %w", err)
		}
	}
	if opt.Cut == CutPrefix {
		s.visit = visit
	}
	if err := s.run(); err != nil {
		return nil, fmt.Errorf("scan log: %w", err)
	}
	r := s.result()
	if opt.Cut == CutPrefix {
		return r, nil
	}
	second := newScanner(dev, geo, opt)
	second.heads, second.durable = s.heads, s.durable
	second.stop, second.visit = r.End, visit
	if err := second.run(); err != nil {
		return nil, fmt.Errorf("scan log: %w", err)
	}
	r.BytesRead += second.w.bytesRead
	return r, nil
}

// checkStart refuses a Start that no superblock of this log can hold.
func checkStart(geo geometry, s Start) error {
	fresh := s.TailSeq == 0 && s.Epoch.IsZero() && s.Tail == 0
	if s.Tail < 0 || s.Tail%LineBytes != 0 || (s.TailSeq == 0 && !fresh) ||
		s.DurableUpTo < 0 || s.DurableUpTo > geo.wrapLimit(s.Tail) || s.Tail > math.MaxInt64/2 {
		return fmt.Errorf("start at position %#x (seq %d), durable up to %#x: impossible in a log of %d bytes: %w",
			s.Tail, s.TailSeq, s.DurableUpTo, geo.size, ErrCorrupt)
	}
	return nil
}

// scanner is one walk over the log.
type scanner struct {
	geo   geometry
	opt   ScanOptions
	w     *walker
	visit func(*Frame) error
	heads []boundaryHead // of every boundary that may be in the chain
	first int64          // position of heads[0]
	stop  int64          // end of a second walk

	durable int64   // D
	cur     state   // after the frame that was walked last
	kept    state   // after the last frame that the cut keeps
	open    bool    // a request is open at cur
	passed  []chain // the boundaries that were passed
	pending []byte  // records of the open request's frames
	queue   []queued
	found   *tear
	strand  int
	own     index // of the current segment, to hold a SUMMARY against
	frame   Frame
}

// boundaryHead is the valid header at a segment boundary, or nothing.
type boundaryHead struct {
	header
	valid bool
}

// queued is a frame of a request that is still open. Its records are in pending.
type queued struct {
	h        header
	from, to int
	previous Epoch
}

// state is what changes from frame to frame.
type state struct {
	at          chain
	barrier     Point
	time        int64
	frames      int
	records     int
	summaries   int
	boundaries  int
	prevSummary int64
	start       lastStart
	isStart     bool
}

func newScanner(dev disk.Device, geo geometry, opt ScanOptions) *scanner {
	s := &scanner{geo: geo, opt: opt, stop: math.MaxInt64}
	s.w = newWalker(dev, geo, opt.Direct, geo.wrapLimit(opt.Start.Tail))
	s.durable = max(opt.Start.DurableUpTo, opt.Start.Tail)
	s.cur.at, s.cur.prevSummary = chainAt(opt.Start), noSummary
	s.kept = s.cur
	s.first = alignUp(opt.Start.Tail, geo.seg)
	s.own.limit = geo.maxSummaryPayload()
	s.own.reset(s.cur.at)
	return s
}

// readBoundaries is step 1.
func (s *scanner) readBoundaries() error {
	var line [LineBytes]byte
	for pos := s.first; pos < s.w.limit; pos += s.geo.seg {
		if err := s.w.read(line[:], pos); err != nil {
			return err
		}
		h, why := decodeHeader(s.geo, line[:])
		valid := why == nil && h.pos == pos
		if valid {
			s.durable = max(s.durable, h.durable)
		}
		s.heads = append(s.heads, boundaryHead{h, valid})
	}
	return nil
}

// headAt is the valid header at a boundary, or nil.
func (s *scanner) headAt(pos int64) *header {
	if i := (pos - s.first) / s.geo.seg; pos >= s.first && i < int64(len(s.heads)) && s.heads[i].valid {
		return &s.heads[i].header
	}
	return nil
}

// run is steps 2 and 3.
func (s *scanner) run() error {
	tail := s.cur.at.pos
	for s.cur.at.pos < s.stop {
		if at := s.cur.at.pos; at == tail || s.geo.isBoundary(at) {
			taken, err := s.takeSegment()
			if err != nil {
				return err
			}
			if taken {
				continue
			}
		}
		before := s.cur.at
		h, recs, t, err := s.w.next(before)
		if err != nil {
			return err
		}
		if t != nil {
			return s.endAt(t)
		}
		if s.opt.Stop != 0 && h.pos >= s.opt.Stop {
			s.found = &tear{pos: h.pos, why: errStopped}
			return nil
		}
		if err := s.apply(&h, recs, before); err != nil {
			return err
		}
	}
	return nil
}

// takeSegment takes the rest of the current segment from the SUMMARY behind it, if there
// is a sound one and the segment is durable as a whole. Otherwise it reports false.
func (s *scanner) takeSegment() (bool, error) {
	at := s.cur.at
	next := s.geo.segmentEnd(at.pos)
	sum := s.headAt(next)
	if s.opt.VerifyAll || next > s.durable || s.opt.Stop != 0 && next >= s.opt.Stop || next > s.stop || sum == nil ||
		sum.kind != KindSummary || sum.flags&FlagIncomplete != 0 {
		return false, nil
	}
	var first *header
	if s.geo.isBoundary(at.pos) {
		if first = s.headAt(at.pos); first == nil || first.seq != at.seq {
			return false, nil
		}
		if first.kind == KindStart {
			first = nil // START frames are in the index
		} else if first.epoch != at.epoch {
			return false, nil
		}
	}
	// The last segment below D is walked in any case: the barrier that ends at D lies in it.
	if s.opt.SkipProven && next+s.geo.seg <= s.durable {
		s.cur.at = chain{sum.pos, sum.seq, sum.epoch}
		s.open, s.queue, s.pending = false, s.queue[:0], s.pending[:0]
		s.keep()
		return true, nil
	}
	payload, t, err := s.w.index(sum)
	if err != nil || t != nil {
		return false, err
	}
	x, why := decodeSummary(s.geo, sum, payload)
	if why != nil {
		return false, nil
	}
	var failed error
	why = x.walk(s.geo, sum, at, first, func(h *header, recs []byte, before chain) error {
		failed = s.apply(h, recs, before)
		return failed
	})
	if failed != nil {
		return false, failed
	}
	if why != nil {
		return false, nil
	}
	s.cur.at = chain{sum.pos, sum.seq, sum.epoch}
	s.keep()
	return true, nil
}

// endAt judges the end of the chain: step 3.
func (s *scanner) endAt(t *tear) error {
	s.found = t
	end := s.cur.at
	if s.opt.Live {
		return nil
	}
	if s.stop != math.MaxInt64 {
		return fmt.Errorf("%v, where there was a frame before: the log changed while it was read", t)
	}
	if end.pos < s.durable {
		return fmt.Errorf("%v; the chain (seq %d, epoch %s) breaks at %#x, and the log was durable up to %#x: %w",
			t, end.seq, end.epoch, end.pos, s.durable, ErrCorrupt)
	}
	ev, err := s.lookBehind(end)
	if err != nil {
		return err
	}
	if ev.claim != nil {
		return fmt.Errorf("%v; the chain (seq %d, epoch %s) breaks at %#x, and the frame at %#x (seq %d) says that the log was durable up to %#x: %w",
			t, end.seq, end.epoch, end.pos, ev.claim.pos, ev.claim.seq, ev.claim.durable, ErrCorrupt)
	}
	if s.kept.at.pos < s.durable {
		return fmt.Errorf("the log is durable up to %#x (seq %d), but a whole request or barrier ends at %#x only: %w",
			s.durable, end.seq, s.kept.at.pos, ErrCorrupt)
	}
	s.strand = ev.stranded
	return nil
}
