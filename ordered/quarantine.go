package ordered

import "fmt"

// A place that was given up, from the change to its next use:
//
//  1. A change at log position p gives up a home or slots: quarantine.
//  2. The log is flushed beyond p. Until then a crash may bring the old map back (I2).
//  3. TakeQuarantine collects all that such changes gave up.
//  4. The engine waits until the readers that may still hold the old answer of Lookup are
//     through, and gives the slots' host space back if it wants to.
//  5. Release: the places may be written.
//
// The quarantine grows by one entry for each run that is given up, so its memory is bounded
// by the changes between two flushes.

// quarantined is a run of homes or slots that a change gave up.
type quarantined struct {
	pos      int64 // of the change
	start, n int64
	stamp    uint64 // homes: the tag of those in State.waiting that still wait for this; slots: 0
}

// quarantineSlotsLocked begins the quarantine of slots that were mapped.
func (s *State) quarantineSlotsLocked(slot, n, pos int64) {
	s.inQuarantine += n
	if last := len(s.quarantine) - 1; last >= 0 {
		if q := &s.quarantine[last]; q.stamp == 0 && q.pos == pos && q.start+q.n == slot {
			q.n += n
			return
		}
	}
	s.quarantine = append(s.quarantine, quarantined{pos: pos, start: slot, n: n})
}

// quarantineHomeLocked begins the quarantine of homes. A home that is given up again before
// it was released waits for the later change.
func (s *State) quarantineHomeLocked(block, n, pos int64) {
	s.lastStamp++
	s.waiting.set(block, block+n, s.lastStamp)
	s.quarantine = append(s.quarantine, quarantined{pos: pos, start: block, n: n, stamp: s.lastStamp})
}

// Batch is what one TakeQuarantine took. It is released once.
type Batch struct {
	entries  []quarantined
	released bool
}

// Slots are the spare slots of the batch, whose bytes nobody needs once the readers are
// through. Between that and Release they may be punched.
func (b *Batch) Slots() []Run {
	var runs []Run
	for _, q := range b.entries {
		if q.stamp != 0 {
			continue
		}
		if last := len(runs) - 1; last >= 0 && runs[last].Start+runs[last].N == q.start {
			runs[last].N += q.n
			continue
		}
		runs = append(runs, Run{Start: q.start, N: q.n})
	}
	return runs
}

// Quarantined reports whether TakeQuarantine(durable) would find anything.
func (s *State) Quarantined(durable int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.quarantine) > 0 && s.quarantine[0].pos < durable
}

// TakeQuarantine collects what changes before log position durable gave up. That position
// must be durable. The places stay in quarantine until Release.
func (s *State) TakeQuarantine(durable int64) *Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("TakeQuarantine")
	// Changes come in the order of the log. One that did not would make those behind it wait.
	k := 0
	for k < len(s.quarantine) && s.quarantine[k].pos < durable {
		k++
	}
	b := &Batch{entries: s.quarantine[:k:k]}
	if s.quarantine = s.quarantine[k:]; len(s.quarantine) == 0 {
		s.quarantine = nil
	}
	return b
}

// Release makes the places of b usable. Nobody may be using an answer that Lookup gave
// before b was taken.
func (s *State) Release(b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.released {
		panic("ordered: Release of a batch that was released before")
	}
	b.released = true
	for _, q := range b.entries {
		if q.stamp != 0 {
			s.waiting.clearTag(q.start, q.start+q.n, q.stamp)
			continue
		}
		if !s.spare.release(q.start, q.n) {
			panic(fmt.Sprintf("ordered: release of slots [%d,+%d): some of them are free already (I1)", q.start, q.n))
		}
		s.inQuarantine -= q.n
	}
	b.entries = nil
}
