package ordered

// chunkSlots is how many slots share one count of free ones, so that a search skips full
// parts of a large spare area at once.
const chunkSlots = 4096

// enoughRuns is how many free runs a search looks at before it takes the longest of them.
const enoughRuns = 32

// spare knows which slots are given out. A slot is, in this order, again and again:
//
//	free         neither bit
//	in flight    used and flight: somebody writes it, no map refers to it
//	mapped       used: a displaced block lies there
//	quarantined  used, until Release
type spare struct {
	used   bitset
	flight bitset
	counts []uint16 // free slots of each chunk

	slots    int64
	free     int64 // slots without the used bit
	inFlight int64

	long, short part  // where runs of either kind are looked for first
	shortMost   int64 // the longest run that is short
}

// part is a piece of the spare area.
type part struct {
	from, to int64
	low      int64 // no slot of it below is free
	top      int64 // no slot of it from here on was ever used since FinishReplay
}

func newSpare(slots int64) spare {
	s := spare{
		used: newBitset(slots), flight: newBitset(slots),
		counts: make([]uint16, divideUp(slots, chunkSlots)),
		slots:  slots, free: slots,
	}
	for i := range s.counts {
		s.counts[i] = uint16(min(chunkSlots, slots-int64(i)*chunkSlots))
	}
	s.keepApart(slots, 0)
	return s
}

// keepApart makes runs of at most most slots go to slots from at on, and longer ones to those
// before it, while there is room.
func (s *spare) keepApart(at, most int64) {
	top := s.long.top
	if s.short.top > s.short.from {
		top = s.short.top
	}
	s.long = part{to: at, top: min(top, at)}
	s.short = part{from: at, to: s.slots, low: at, top: max(top, at)}
	s.shortMost = most
}

// alloc gives out up to want contiguous free slots, as in flight. There must be a free one.
// It prefers slots that were used before, because the host has space for those, and among
// the first few free runs of them one that is long enough; else fresh ones at the top.
func (s *spare) alloc(want int64) (slot, n int64) {
	first, second := &s.long, &s.short
	if want <= s.shortMost {
		first, second = second, first
	}
	if slot, n = s.find(first, want); n == 0 {
		slot, n = s.find(second, want)
	}
	s.mark(slot, n)
	s.inFlight += s.flight.setRange(slot, slot+n)
	return slot, n
}

// find is alloc's choice in p; n is 0 if p has no free slot.
func (s *spare) find(p *part, want int64) (slot, n int64) {
	if p.low = s.nextFree(p.low, p.to); p.low == p.to {
		return 0, 0
	}
	slot, n = p.low, s.freeRun(p.low, p.to, want)
	for at, tries := slot+n, 1; n < want && tries < enoughRuns; tries++ {
		at = s.nextFree(at, p.to)
		if at >= p.to {
			break
		}
		run := s.freeRun(at, p.to, want)
		if run > n {
			slot, n = at, run
		}
		at += run
	}
	if n < want && p.to-p.top >= want {
		slot, n = p.top, want
	}
	return slot, n
}

// nextFree is the first free slot at or after at, or end.
func (s *spare) nextFree(at, end int64) int64 {
	for at < end {
		chunk := at / chunkSlots
		next := min(end, (chunk+1)*chunkSlots)
		if s.counts[chunk] > 0 {
			n, used := s.used.run(at, next)
			if !used {
				return at
			}
			if at+n < next {
				return at + n
			}
		}
		at = next
	}
	return end
}

// freeRun is the number of free slots from slot on, below end, at most want. slot is free.
func (s *spare) freeRun(slot, end, want int64) int64 {
	n, _ := s.used.run(slot, min(end, slot+want))
	return n
}

// mark makes [slot, slot+n) used, and reports whether all of it was free.
func (s *spare) mark(slot, n int64) bool {
	for _, p := range [...]*part{&s.long, &s.short} {
		if slot < p.to {
			p.top = max(p.top, min(slot+n, p.to))
		}
	}
	return s.change(slot, n, s.used.setRange, -1) == n
}

// release makes [slot, slot+n) free, and reports whether all of it was used.
func (s *spare) release(slot, n int64) bool {
	for _, p := range [...]*part{&s.long, &s.short} {
		if slot+n > p.from {
			p.low = min(p.low, max(slot, p.from))
		}
	}
	return s.change(slot, n, s.used.clearRange, 1) == n
}

// take gives [slot, slot+n) out as in flight if all of it is free, and reports whether it is. That
// does not make it a place that was used.
func (s *spare) take(slot, n int64) bool {
	if run, used := s.used.run(slot, slot+n); used || run < n {
		return false
	}
	s.change(slot, n, s.used.setRange, -1)
	s.inFlight += s.flight.setRange(slot, slot+n)
	return true
}

// land ends the flight of [slot, slot+n), and reports whether all of it was in flight.
func (s *spare) land(slot, n int64) bool {
	changed := s.flight.clearRange(slot, slot+n)
	s.inFlight -= changed
	return changed == n
}

// change sets or clears used bits chunk by chunk and keeps the counts.
func (s *spare) change(slot, n int64, set func(from, end int64) int64, sign int64) (changed int64) {
	for at, end := slot, slot+n; at < end; {
		chunk := at / chunkSlots
		next := min(end, (chunk+1)*chunkSlots)
		k := set(at, next)
		s.counts[chunk] = uint16(int64(s.counts[chunk]) + sign*k)
		changed += k
		at = next
	}
	s.free += sign * changed
	return changed
}
