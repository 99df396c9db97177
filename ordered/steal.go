package ordered

// Steal takes the homes of [block, block+n) for a background writer, the checkpointer, which
// brings logged bytes there. It waits until no other owner is busy with any of them, and
// until the direct writes that reserved one have written, or were applied if sealed. On
// return those that were not applied have lost all their homes (their Valid is false), and
// Reserve picks none of the range until Unbusy.
//
// A direct write that was applied during the wait may have changed the bases: look again
// what has to be brought home. Who is busy with a home itself must not steal it: it would
// wait for ever. Who holds a lock that a writer needs between Seal and Apply must not steal.
func (s *State) Steal(block, n int64) {
	s.checkBlocks("steal", block, n)
	if n == 0 {
		return
	}
	end := block + n
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("Steal")
	for s.busy.overlaps(block, end) {
		s.changed.Wait()
	}
	s.busy.set(block, end, 0)
	for !s.disownLocked(block, end) {
		s.changed.Wait()
	}
}

// disownLocked marks the reservations of homes in [block, end) as stolen and takes all their
// homes from those that have written. It reports false if some have not.
func (s *State) disownLocked(block, end int64) (all bool) {
	all = true
	var written []*Reservation
	s.reserved.visit(block, end, func(_, _ int64, id uint64) bool {
		r := s.reservations[id]
		switch {
		case r.sealed:
			all = false
		case !r.written:
			r.stolen, all = true, false
		default:
			r.stolen = true
			written = append(written, r)
		}
		return true
	})
	for _, r := range written {
		s.unreserveLocked(r)
		r.disowned = true
		for _, t := range r.targets {
			if t.Home {
				s.garbage.set(t.Block, t.Block+t.N, 0)
			}
		}
	}
	return all
}

// Unbusy ends what Steal, TakePunch or NextDisplaced began for [block, block+n).
func (s *State) Unbusy(block, n int64) {
	s.checkBlocks("unbusy", block, n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy.clear(block, block+n)
	s.changed.Broadcast()
}
