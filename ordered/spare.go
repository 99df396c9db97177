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
	low      int64 // no slot below it is free
	top      int64 // no slot from it on was ever used since FinishReplay
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
	return s
}

// alloc gives out up to want contiguous free slots, as in flight. There must be a free one.
// It prefers slots that were used before, because the host has space for those, and among
// the first few free runs of them one that is long enough; else fresh ones at the top.
func (s *spare) alloc(want int64) (slot, n int64) {
	s.low = s.nextFree(s.low)
	slot, n = s.low, s.freeRun(s.low, want)
	for at, tries := slot+n, 1; n < want && tries < enoughRuns; tries++ {
		at = s.nextFree(at)
		if at >= s.slots {
			break
		}
		run := s.freeRun(at, want)
		if run > n {
			slot, n = at, run
		}
		at += run
	}
	if n < want && s.slots-s.top >= want {
		slot, n = s.top, want
	}
	s.mark(slot, n)
	s.inFlight += s.flight.setRange(slot, slot+n)
	return slot, n
}

// nextFree is the first free slot at or after at, or the number of slots.
func (s *spare) nextFree(at int64) int64 {
	for at < s.slots {
		chunk := at / chunkSlots
		end := min(s.slots, (chunk+1)*chunkSlots)
		if s.counts[chunk] > 0 {
			n, used := s.used.run(at, end)
			if !used {
				return at
			}
			if at+n < end {
				return at + n
			}
		}
		at = end
	}
	return s.slots
}

// freeRun is the number of free slots from slot on, at most want. slot is free.
func (s *spare) freeRun(slot, want int64) int64 {
	n, _ := s.used.run(slot, min(s.slots, slot+want))
	return n
}

// mark makes [slot, slot+n) used, and reports whether all of it was free.
func (s *spare) mark(slot, n int64) bool {
	s.top = max(s.top, slot+n)
	return s.change(slot, n, s.used.setRange, -1) == n
}

// release makes [slot, slot+n) free, and reports whether all of it was used.
func (s *spare) release(slot, n int64) bool {
	s.low = min(s.low, slot)
	return s.change(slot, n, s.used.clearRange, 1) == n
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
