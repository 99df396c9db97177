package ordered

import "fmt"

// FinishReplay makes the state live: the slots in use are those of the map, and nothing is in
// flight or in quarantine. Two blocks in one slot, or a record out of range, are ErrCorrupt;
// the state can't be used then.
//
// It must be called once after New and after Load, also when nothing was replayed, and the
// records replayed must reach back to the moment of the save, or further.
func (s *State) FinishReplay() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		panic("ordered: FinishReplay of a live state")
	}
	if s.badReplay != nil {
		return fmt.Errorf("replay write-once state: %w", s.badReplay)
	}
	s.spare = newSpare(s.layout.Slots)
	var err error
	s.displaced.visit(0, s.layout.Blocks, func(m mapped) bool {
		if !s.spare.mark(m.slot, m.n) {
			err = fmt.Errorf("replay write-once state: blocks [%d,+%d) in slots [%d,+%d): some of these slots hold other blocks: %w",
				m.block, m.n, m.slot, m.n, ErrCorrupt)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	s.waiting, s.quarantine, s.inQuarantine = rangeSet{}, nil, 0
	s.live = true
	return nil
}
