package ordered

import "fmt"

// examine is how many runs are looked at under one hold of the lock, so that a walk over
// millions of runs never stops writers for long.
const examine = 1024

// punchRun is how many homes one run of TakePunch has at most, so that after the trim of a
// whole disk neither writes in place nor the checkpointer wait for the punch of all of it.
const punchRun = 256 << 20 / BlockBytes

// NextDisplaced finds the first displaced run at or after block from whose home is nobody's,
// cuts it to most blocks, and makes its homes busy until Unbusy. The piece is in Spare. ok is
// false when there is none; displaced runs whose homes are in quarantine, reserved or busy
// were passed over then.
//
// The block may be changed while it is copied: look again, under the lock that orders
// changes, before MapHome.
func (s *State) NextDisplaced(from, most int64) (piece Piece, ok bool) {
	s.checkBlocks("homing", from, 0)
	for from < s.layout.Blocks && !ok {
		from = s.nextDisplaced(from, most, &piece, &ok)
	}
	return piece, ok
}

// nextDisplaced looks at some runs and returns where to go on.
func (s *State) nextDisplaced(from, most int64, piece *Piece, ok *bool) (next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("NextDisplaced")
	next = s.layout.Blocks
	seen := 0
	s.displaced.visit(from, next, func(m mapped) bool {
		for at := m.block; at < m.end(); {
			if seen++; seen > examine {
				next = at
				return false
			}
			n, open := s.openHomeLocked(at, m.end())
			if open {
				m = m.cut(at, at+min(n, most))
				*piece, *ok = Piece{Block: m.block, N: m.n, Where: Spare, Slot: m.slot}, true
				return false
			}
			at += n
		}
		return true
	})
	if *ok {
		s.busy.set(piece.Block, piece.Block+piece.N, 0)
	}
	return next
}

// TakePunch returns up to most runs, of 256 MiB at most, of homes that may hold bytes nobody
// needs: of trimmed blocks, and of direct writes that were aborted. They are absent, out of
// quarantine, nobody's, and busy until Unbusy. Each is returned once; after a restart it is
// forgotten, and AbsentRuns finds it at close.
func (s *State) TakePunch(most int) []Run {
	var take []Run
	for from := int64(0); from < s.layout.Blocks && len(take) < most; {
		take, from = s.takePunch(take, from, most)
	}
	return take
}

// takePunch looks at some runs and returns where to go on.
func (s *State) takePunch(take []Run, from int64, most int) (_ []Run, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("TakePunch")
	next = s.layout.Blocks
	var use, drop []Run
	seen := 0
	s.garbage.visit(from, next, func(start, end int64, _ uint64) bool {
		for at := max(from, start); at < end; {
			if seen++; seen > examine || len(take)+len(use) == most {
				next = at
				return false
			}
			n, now, later := s.punchableLocked(at, min(end, at+punchRun))
			switch {
			case now:
				use = append(use, Run{Start: at, N: n})
			case !later:
				drop = append(drop, Run{Start: at, N: n})
			}
			at += n
		}
		return true
	})
	for _, r := range drop {
		s.garbage.clear(r.Start, r.Start+r.N)
	}
	for _, r := range use {
		s.garbage.clear(r.Start, r.Start+r.N)
		s.busy.set(r.Start, r.Start+r.N, 0)
	}
	return append(take, use...), next
}

// punchableLocked is a run of homes from at on, below end, all of which can be punched now,
// or later, or must not be (neither).
func (s *State) punchableLocked(at, end int64) (n int64, now, later bool) {
	n, present := s.present.run(at, end)
	if present {
		return n, false, false
	}
	if m, ok := s.displaced.next(at, at+n); ok {
		if m.block == at {
			return m.n, false, false
		}
		n = m.block - at
	}
	n, open := s.openHomeLocked(at, at+n)
	return n, open, !open
}

// AbsentRuns returns the first most runs at or after block from of blocks that are absent, for
// the close that makes the backing a raw image: it punches them all, because an absent home
// may hold garbage. A result shorter than most is the end; else go on behind the last run.
func (s *State) AbsentRuns(from int64, most int) []Run {
	s.checkBlocks("absent runs", from, 0)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var runs []Run
	end := s.layout.Blocks
	for at := from; at < end && len(runs) < most; {
		n, present := s.present.run(at, end)
		if present {
			at += n
			continue
		}
		stop := at + n
		if m, ok := s.displaced.next(at, stop); ok {
			stop = m.block
			n = m.end() - at
		}
		if stop > at {
			runs = append(runs, Run{Start: at, N: stop - at})
		}
		at += n
	}
	return runs
}

// TakeSlots takes [slot, slot+n) for the caller if all of it is free, and reports whether it is: no
// direct write gets one of these before ReturnSlots, and the host may have their space.
func (s *State) TakeSlots(slot, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("TakeSlots")
	return s.spare.take(slot, n)
}

// ReturnSlots ends what TakeSlots began.
func (s *State) ReturnSlots(slot, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landFreeLocked(slot, n)
}

// landFreeLocked makes slots free that are in flight, and that nothing refers to.
func (s *State) landFreeLocked(slot, n int64) {
	if !s.spare.land(slot, n) || !s.spare.release(slot, n) {
		panic(fmt.Sprintf("ordered: return of slots [%d,+%d): not all of them in flight (I1)", slot, n))
	}
}
