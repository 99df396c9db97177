package ordered

import (
	"fmt"
	"testing"

	"jnbd/disk"
)

// live is a fresh state after the replay of nothing.
func live(t testing.TB, l Layout) *State {
	t.Helper()
	s := New(l)
	finish(t, s)
	return s
}

func finish(t testing.TB, s *State) {
	t.Helper()
	if err := s.FinishReplay(); err != nil {
		t.Fatal(err)
	}
}

// reserve is Reserve where it must succeed.
func reserve(t testing.TB, s *State, block, n int64) *Reservation {
	t.Helper()
	r, ok := s.Reserve(block, n, nil)
	if !ok {
		t.Fatalf("reserve [%d,+%d): no room", block, n)
	}
	return r
}

// write is a direct write from Reserve to Apply.
func write(t testing.TB, s *State, block, n, pos int64) []Target {
	t.Helper()
	r := reserve(t, s, block, n)
	r.Written()
	if !r.Seal() || !r.Apply(pos) {
		t.Fatalf("write [%d,+%d): stolen", block, n)
	}
	return r.Targets()
}

// release ends the quarantine of all that changes before durable gave up.
func release(s *State, durable int64) { s.Release(s.TakeQuarantine(durable)) }

// bases is the whole disk as Lookup has it.
func bases(s *State) []Piece { return s.Lookup(nil, 0, s.layout.Blocks) }

// save is Save and Committed, with a superblock that never fails.
func save(t testing.TB, s *State, dev disk.Device, generation uint64) {
	t.Helper()
	if err := s.Save(dev, generation); err != nil {
		t.Fatal(err)
	}
	s.Committed(generation)
}

// load is Load and FinishReplay of what must be whole.
func load(t testing.TB, dev disk.Device, l Layout, generation uint64) *State {
	t.Helper()
	s, err := Load(dev, l, generation)
	if err != nil {
		t.Fatal(err)
	}
	finish(t, s)
	return s
}

// check inspects a whole live state for I1, I3 and its own bookkeeping.
func check(t testing.TB, s *State) {
	t.Helper()
	if err := inspect(s); err != nil {
		t.Fatal(err)
	}
}

func inspect(s *State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	slots := make([]string, s.layout.Slots)
	claim := func(slot, n int64, who string) error {
		for i := slot; i < slot+n; i++ {
			if slots[i] != "" {
				return fmt.Errorf("slot %d is %s and %s", i, slots[i], who)
			}
			slots[i] = who
		}
		return nil
	}
	var err error
	var displaced, present, inFlight, inQuarantine int64
	end := int64(0)
	s.displaced.tree.Scan(func(block int64, v uint64) bool {
		m := unpack(block, v)
		switch {
		case m.n == 0:
			err = fmt.Errorf("empty run at %d", block)
		case block < end:
			err = fmt.Errorf("runs overlap at block %d", block)
		case !s.present.all(block, m.end(), false):
			err = fmt.Errorf("blocks [%d,+%d) are displaced, and some at home (I3)", block, m.n)
		default:
			err = claim(m.slot, m.n, "mapped")
		}
		end = m.end()
		displaced += m.n
		return err == nil
	})
	if err != nil {
		return err
	}
	for slot := range s.layout.Slots {
		if s.spare.flight.get(slot) {
			inFlight++
			if err := claim(slot, 1, "in flight"); err != nil {
				return err
			}
		}
	}
	for _, q := range s.quarantine {
		if q.stamp == 0 {
			inQuarantine += q.n
			if err := claim(q.start, q.n, "in quarantine"); err != nil {
				return err
			}
		}
	}
	free := int64(0)
	for slot := range s.layout.Slots {
		if !s.spare.used.get(slot) {
			free++
			if err := claim(slot, 1, "free"); err != nil {
				return err
			}
		}
	}
	for block := range s.layout.Blocks {
		if s.present.get(block) {
			present++
			if s.reserved.overlaps(block, block+1) {
				return fmt.Errorf("block %d is at home, and its home reserved (I3)", block)
			}
		}
	}
	got := [...]int64{displaced, present, inFlight, free}
	want := [...]int64{s.displaced.blocks, s.presentCount, s.spare.inFlight, s.spare.free}
	if got != want {
		return fmt.Errorf("displaced, present, in flight, free: counted %v, booked %v", got, want)
	}
	if inQuarantine > s.inQuarantine {
		return fmt.Errorf("%d slots in quarantine, booked %d", inQuarantine, s.inQuarantine)
	}
	sum := int64(0)
	for i, k := range s.spare.counts {
		chunk := int64(i) * chunkSlots
		for slot := chunk; slot < min(chunk+chunkSlots, s.layout.Slots); slot++ {
			if !s.spare.used.get(slot) {
				sum++
			}
		}
		if sum != int64(k) {
			return fmt.Errorf("chunk %d has %d free slots, booked %d", i, sum, k)
		}
		sum = 0
	}
	return nil
}
