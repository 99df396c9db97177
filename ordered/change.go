package ordered

import (
	"fmt"
	"slices"
)

// A change of bases, from a log record to the state:
//
//  1. Take away what the blocks were: presence bits, runs of the map.
//  2. Live: what was given up goes to quarantine, under the change's log position.
//  3. Enter what they are now.
//  4. Mark the stored pages that are no longer true.
//
// Every change is absolute: it says where the bases are, not how that differs from before. So
// replay may repeat what a stored state already holds, and in replay step 2 is left out:
// FinishReplay derives the places in use from the map alone. In between, two blocks may claim
// one slot, where a stored state already holds the slot's next use.

// quarantineRuns is how many runs of homes one Drop sends to quarantine at most. What comes
// after goes as one run, whether it was present or not: it only means that some absent homes
// can't be written in place until the next Release.
const quarantineRuns = 1024

// SetPresent says that [block, block+n) is at home, as found when a disk is adopted. It is
// allowed in replay only.
func (s *State) SetPresent(block, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		panic("ordered: SetPresent after FinishReplay")
	}
	s.checkBlocks("SetPresent", block, n)
	s.mapHomeLocked(block, n, 0)
}

// Map makes slots [slot, slot+n) the bases of [block, block+n): the record of a direct write
// to spare, at log position pos. Live, the slots must be in flight.
func (s *State) Map(block, n, slot, pos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inRangeLocked("map", block, n) && s.slotsInRangeLocked(block, n, slot) {
		s.mapLocked(block, n, slot, pos)
	}
}

// MapHome makes the homes of [block, block+n) their bases: the record of a direct write in
// place, of homing, or of a checkpoint, at log position pos. Live, no reservation may hold
// these homes: Steal them first.
func (s *State) MapHome(block, n, pos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inRangeLocked("map home", block, n) {
		s.mapHomeLocked(block, n, pos)
	}
}

// Drop makes [block, block+n) absent: the record of a trim or a zero of whole blocks, at log
// position pos. It costs O(runs) and the clearing of n bits.
func (s *State) Drop(block, n, pos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inRangeLocked("drop", block, n) && n > 0 {
		s.leaveLocked(block, n, pos)
		s.garbage.set(block, block+n, 0)
	}
}

func (s *State) mapLocked(block, n, slot, pos int64) {
	if n == 0 {
		return
	}
	if s.live && !s.spare.land(slot, n) {
		panic(fmt.Sprintf("ordered: map blocks [%d,+%d) to slots [%d,+%d): not all of them in flight (I1)", block, n, slot, n))
	}
	s.leaveLocked(block, n, pos)
	s.displaced.put(mapped{block: block, n: n, slot: slot})
	s.dirtySlotsLocked(slot, n)
	s.garbage.clear(block, block+n)
}

func (s *State) mapHomeLocked(block, n, pos int64) {
	if n == 0 {
		return
	}
	end := block + n
	if start, _, ok := s.reserved.first(block, end); ok {
		panic(fmt.Sprintf("ordered: map home of blocks [%d,+%d): a direct write holds the home of %d (I3)", block, n, max(start, block)))
	}
	s.newest = max(s.newest, pos)
	s.leaveSlotsLocked(block, end, pos)
	s.eachBitPageLocked(block, end, func(from, end int64) int64 {
		k := s.present.setRange(from, end)
		s.presentCount += k
		return k
	})
	s.waiting.clear(block, end)
	s.garbage.clear(block, end)
}

// leaveLocked makes [block, block+n) absent. Live, its homes and slots go to quarantine.
func (s *State) leaveLocked(block, n, pos int64) {
	end := block + n
	s.newest = max(s.newest, pos)
	s.leaveSlotsLocked(block, end, pos)
	if s.live {
		s.quarantineHomesLocked(block, end, pos)
	}
	s.eachBitPageLocked(block, end, func(from, end int64) int64 {
		k := s.present.clearRange(from, end)
		s.presentCount -= k
		return k
	})
}

// leaveSlotsLocked takes [block, end) out of the map.
func (s *State) leaveSlotsLocked(block, end, pos int64) {
	if s.live && s.displaced.blocks > 0 && s.displaced.coveredBy(block, end) {
		s.quarantine = slices.Grow(s.quarantine, s.displaced.tree.Len()) // a whole disk's trim: do it at once
	}
	s.displaced.take(block, end, func(m mapped) {
		s.dirtySlotsLocked(m.slot, m.n)
		if s.live {
			s.quarantineSlotsLocked(m.slot, m.n, pos)
		}
	})
}

// quarantineHomesLocked sends the present homes of [block, end) to quarantine.
func (s *State) quarantineHomesLocked(block, end, pos int64) {
	runs := 0
	for at := block; at < end; {
		n, present := s.present.run(at, end)
		if present {
			if runs++; runs > quarantineRuns {
				n = end - at
			}
			s.quarantineHomeLocked(at, n, pos)
		}
		at += n
	}
}

// eachBitPageLocked applies change to [from, end) one stored page at a time, and marks the
// pages in which it changed something.
func (s *State) eachBitPageLocked(from, end int64, change func(from, end int64) int64) {
	for at := from; at < end; {
		page := at / bitsPerPage
		next := min(end, (page+1)*bitsPerPage)
		if change(at, next) > 0 {
			s.dirty.setRange(page, page+1)
		}
		at = next
	}
}

// dirtySlotsLocked marks the stored pages of slots [slot, slot+n).
func (s *State) dirtySlotsLocked(slot, n int64) {
	first := s.tree.bitPages + slot/wordsPerPage
	last := s.tree.bitPages + (slot+n-1)/wordsPerPage
	s.dirty.setRange(first, last+1)
}

// inRangeLocked reports whether [block, block+n) is the disk's. Live it panics if not; in
// replay FinishReplay will say so.
func (s *State) inRangeLocked(what string, block, n int64) bool {
	if s.live {
		s.checkBlocks(what, block, n)
		return true
	}
	if block < 0 || n < 0 || block > s.layout.Blocks || n > s.layout.Blocks-block {
		s.badReplayLocked(fmt.Errorf("%s of %d blocks at %d, the disk has %d: %w", what, n, block, s.layout.Blocks, ErrCorrupt))
		return false
	}
	return true
}

// slotsInRangeLocked is inRangeLocked for slots.
func (s *State) slotsInRangeLocked(block, n, slot int64) bool {
	if slot >= 0 && slot <= s.layout.Slots && n <= s.layout.Slots-slot {
		return true
	}
	err := fmt.Errorf("map of blocks [%d,+%d) to slot %d, the spare area has %d: %w", block, n, slot, s.layout.Slots, ErrCorrupt)
	if s.live {
		panic("ordered: " + err.Error())
	}
	s.badReplayLocked(err)
	return false
}

func (s *State) badReplayLocked(err error) {
	if s.badReplay == nil {
		s.badReplay = err
	}
}
