package ordered

import "fmt"

// A direct write, from the request to its place in the map:
//
//  1. Reserve finds a destination for every block: its home where that is empty and nobody
//     else's, spare slots for the rest.
//  2. The engine writes the payload to the Targets and calls Written. Nothing refers to these
//     bytes yet: a crash leaves them as if they had never been written.
//  3. Under its append lock the engine calls Seal. False: the checkpointer needed one of the
//     homes meanwhile (steal.go); the write goes into the log instead, after Abort.
//  4. It appends the records that say where the bytes are, and with their position calls
//     Apply: from now on Lookup answers with the new bases.
//
// A reservation that fails at any step before Apply is ended by Abort. If the append has to
// wait for log space, Unseal before the wait and Seal again after it: the checkpointer that
// makes the space may be waiting in Steal.

// KeepApart makes Reserve look for slots of runs of at most most blocks from slot on, and for
// those of longer runs before it; in the other part only when there is nothing left in the
// first. A caller that writes the two in different ways can so tell them by their place.
func (s *State) KeepApart(slot, most int64) {
	if slot < 0 || slot > s.layout.Slots {
		panic(fmt.Sprintf("ordered: KeepApart at slot %d, the spare area has %d", slot, s.layout.Slots))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("KeepApart")
	s.spare.keepApart(slot, most)
}

// Target is N blocks from Block on and their destination: in place (Home), or slots from
// Slot on.
type Target struct {
	Block, N int64
	Home     bool
	Slot     int64
}

// Reservation is the destinations of one direct write, from Reserve to Apply or Abort. Its
// methods may be called from several goroutines.
type Reservation struct {
	s       *State
	id      uint64
	targets []Target // fixed once Reserve has returned

	// Guarded by s.mu.
	written  bool // the caller's device writes have returned
	sealed   bool // Steal waits until Apply, Abort or Unseal
	stolen   bool // Steal wants a home: the reservation can only be aborted
	disowned bool // Steal has taken the homes
	ended    bool // by Apply or Abort
}

// Reserve finds a destination for each block of [block, block+n), or reports false, having
// reserved nothing, when there are not enough free slots; the write then takes the log.
//
// A home is taken where the block is absent or displaced, and the home is not in quarantine,
// not reserved, not busy, and canHome, if not nil, agrees. canHome is called without locks,
// with ranges inside [block, block+n); it reports whether no logged bytes wait to be brought
// home there. What is logged after it was asked is Steal's matter.
func (s *State) Reserve(block, n int64, canHome func(block, n int64) bool) (*Reservation, bool) {
	s.checkBlocks("reserve", block, n)
	r := &Reservation{s: s}
	var want []Target // Home: reserved; else without slot yet

	s.mu.Lock()
	s.mustBeLiveLocked("Reserve")
	s.lastStamp++
	r.id = s.lastStamp
	s.reservations[r.id] = r
	for at := block; at < block+n; {
		k, home := s.emptyHomeLocked(at, block+n)
		if home {
			s.reserved.set(at, at+k, r.id)
		}
		want = addTarget(want, Target{Block: at, N: k, Home: home})
		at += k
	}
	s.mu.Unlock()

	var refused []Target
	if canHome != nil {
		asked := want
		want = nil
		for _, t := range asked {
			if t.Home && !canHome(t.Block, t.N) {
				refused = append(refused, t)
				t.Home = false
			}
			want = addTarget(want, t)
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range refused {
		s.reserved.clearTag(t.Block, t.Block+t.N, r.id)
	}
	short := int64(0)
	for _, t := range want {
		if !t.Home {
			short += t.N
		}
	}
	if short > s.spare.free {
		r.targets = want
		s.endLocked(r)
		return nil, false
	}
	for _, t := range want {
		for !t.Home && t.N > 0 {
			slot, k := s.spare.alloc(t.N)
			r.targets = append(r.targets, Target{Block: t.Block, N: k, Slot: slot})
			t.Block, t.N = t.Block+k, t.N-k
		}
		if t.Home {
			r.targets = append(r.targets, t)
		}
	}
	if refused != nil {
		s.changed.Broadcast()
	}
	return r, true
}

// addTarget appends t, or makes the last target longer by it. Neither has slots yet.
func addTarget(targets []Target, t Target) []Target {
	if last := len(targets) - 1; last >= 0 && targets[last].Home == t.Home {
		targets[last].N += t.N
		return targets
	}
	return append(targets, t)
}

// emptyHomeLocked is the number of blocks from at on, below end, whose homes are alike in
// being free for a write in place, or not, and which.
func (s *State) emptyHomeLocked(at, end int64) (n int64, empty bool) {
	n, present := s.present.run(at, end)
	if present {
		return n, false
	}
	k, open := s.openHomeLocked(at, at+n)
	return k, open
}

// openHomeLocked is the number of blocks from at on, below end, whose homes are alike in
// being nobody's or not, and which. It does not look at presence.
func (s *State) openHomeLocked(at, end int64) (n int64, open bool) {
	n = end - at
	for _, set := range [...]*rangeSet{&s.reserved, &s.busy, &s.waiting} {
		k, in := set.run(at, at+n)
		if in {
			return k, false
		}
		n = k
	}
	return n, true
}

// Targets are the destinations, in the order of the blocks, covering all of them. The caller
// must not change them.
func (r *Reservation) Targets() []Target { return r.targets }

// Written says that the caller's device writes have returned, or failed: it will write to
// the targets no more. Steal waits for it. Apply and Abort imply it.
func (r *Reservation) Written() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.written = true
	r.s.changed.Broadcast()
}

// Valid reports whether no home was stolen so far. Without Seal the answer may be old.
func (r *Reservation) Valid() bool {
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	return !r.stolen && !r.ended
}

// Seal is Valid whose true holds: Steal waits until Apply, Abort or Unseal. Who has sealed
// must not wait for the checkpointer.
func (r *Reservation) Seal() bool {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.sealed = !r.stolen && !r.ended
	return r.sealed
}

// Unseal takes Seal back.
func (r *Reservation) Unseal() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.sealed = false
	r.s.changed.Broadcast()
}

// Apply makes the targets the bases of their blocks, as one change at log position pos, and
// ends the reservation. What the blocks were goes to quarantine. It reports false, having
// aborted, if a home was stolen; never after a Seal that was true.
func (r *Reservation) Apply(pos int64) bool {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mustNotHaveEndedLocked("Apply")
	if r.stolen {
		s.abortLocked(r)
		return false
	}
	s.endLocked(r)
	for _, t := range r.targets {
		if !t.Home {
			s.mapLocked(t.Block, t.N, t.Slot, pos)
			continue
		}
		if !s.present.all(t.Block, t.Block+t.N, false) {
			panic(fmt.Sprintf("ordered: apply in place to blocks [%d,+%d): a home was filled under the reservation (I3)", t.Block, t.N))
		}
		s.mapHomeLocked(t.Block, t.N, pos)
	}
	return true
}

// Abort gives everything back at once: no map ever referred to it. Homes stay as empty as
// they were, though they may hold bytes now. The caller's device writes must have returned.
func (r *Reservation) Abort() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.mustNotHaveEndedLocked("Abort")
	r.s.abortLocked(r)
}

func (s *State) abortLocked(r *Reservation) {
	for _, t := range r.targets {
		switch {
		case !t.Home:
			s.landFreeLocked(t.Slot, t.N)
		case !r.disowned: // else Steal has seen to it
			s.garbage.set(t.Block, t.Block+t.N, 0)
		}
	}
	s.endLocked(r)
}

// endLocked takes the reservation off the books.
func (s *State) endLocked(r *Reservation) {
	r.ended, r.written, r.sealed = true, true, false
	s.unreserveLocked(r)
	delete(s.reservations, r.id)
	s.changed.Broadcast()
}

// unreserveLocked gives up the homes.
func (s *State) unreserveLocked(r *Reservation) {
	for _, t := range r.targets {
		if t.Home {
			s.reserved.clearTag(t.Block, t.Block+t.N, r.id)
		}
	}
}

func (r *Reservation) mustNotHaveEndedLocked(what string) {
	if r.ended {
		panic("ordered: " + what + " of a reservation that has ended")
	}
}
