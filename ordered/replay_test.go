package ordered

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"jnbd/disk"
)

// record is a change as the log has it.
type record struct {
	pos, block, n int64
	kind          string // "map", "home", "drop"
	slot          int64
}

func (r record) replay(s *State) {
	switch r.kind {
	case "map":
		s.Map(r.block, r.n, r.slot, r.pos)
	case "home":
		s.MapHome(r.block, r.n, r.pos)
	case "drop":
		s.Drop(r.block, r.n, r.pos)
	}
}

// storyteller makes histories as an engine would: direct writes, homing, checkpoints, trims,
// with the log flushed now and then.
type storyteller struct {
	s   *State
	rnd *rand.Rand
	log []record
	pos int64
}

func (h *storyteller) add(kind string, block, n, slot int64) {
	h.log = append(h.log, record{pos: h.pos, kind: kind, block: block, n: n, slot: slot})
}

// step makes one change, or none. Its records are in the log on return.
func (h *storyteller) step() {
	blocks := h.s.layout.Blocks
	block := h.rnd.Int64N(blocks)
	n := min(1+h.rnd.Int64N(50), blocks-block)
	h.pos++
	switch h.rnd.IntN(10) {
	case 0:
		h.add("drop", block, n, 0)
		h.s.Drop(block, n, h.pos)
	case 1:
		p, ok := h.s.NextDisplaced(block, n)
		if !ok {
			return
		}
		h.add("home", p.Block, p.N, 0)
		h.s.MapHome(p.Block, p.N, h.pos)
		h.s.Unbusy(p.Block, p.N)
	case 2:
		h.s.Steal(block, n)
		h.add("home", block, n, 0)
		h.s.MapHome(block, n, h.pos)
		h.s.Unbusy(block, n)
	case 3, 4:
		release(h.s, h.pos)
	default:
		r, ok := h.s.Reserve(block, n, nil)
		if !ok {
			return
		}
		if h.rnd.IntN(8) == 0 {
			r.Abort()
			return
		}
		for _, t := range r.Targets() {
			if t.Home {
				h.add("home", t.Block, t.N, 0)
			} else {
				h.add("map", t.Block, t.N, t.Slot)
			}
		}
		if !r.Apply(h.pos) {
			panic("nobody steals here")
		}
	}
}

// TestReplayAnySuffix: a state stored at any moment, and the records from that moment or any
// earlier one up to any later one, make exactly the state that was true at the last of them
// (I5); and replaying twice is replaying once.
func TestReplayAnySuffix(t *testing.T) {
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		l := Layout{Blocks: 1 + rnd.Int64N(400), Slots: rnd.Int64N(200)}
		dev := disk.NewMem(StateBytes(l))
		h := &storyteller{s: live(t, l), rnd: rnd}
		truth := [][]Piece{bases(h.s)} // after so many records
		savedAt, generation := 0, uint64(0)
		for range 120 {
			before := len(h.log)
			h.step()
			for range len(h.log) - before {
				truth = append(truth, nil) // inside one change: not a state
			}
			truth[len(h.log)] = bases(h.s)
			if rnd.IntN(40) == 0 {
				generation++
				save(t, h.s, dev, generation)
				savedAt = len(h.log)
			}
		}
		check(t, h.s)
		for range 20 {
			from := rnd.IntN(savedAt + 1)
			to := savedAt + rnd.IntN(len(h.log)-savedAt+1)
			if truth[to] == nil {
				continue
			}
			s, err := Load(dev, l, generation)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for range 1 + rnd.IntN(2) {
				for _, r := range h.log[from:to] {
					r.replay(s)
				}
			}
			if err := s.FinishReplay(); err != nil {
				t.Fatalf("seed %d, saved at %d, records %d to %d: %v", seed, savedAt, from, to, err)
			}
			if got := bases(s); !slices.Equal(got, truth[to]) {
				t.Fatalf("seed %d, saved at %d, records %d to %d:\n%v\nwant\n%v", seed, savedAt, from, to, got, truth[to])
			}
			check(t, s)
			if st := s.Stats(); st.SpareUsed != st.Displaced || st.Quarantined != 0 || st.InFlight != 0 {
				t.Fatalf("seed %d: after replay %+v: only mapped slots are in use", seed, st)
			}
		}
	}
}

// TestReplayRefuses: what no history can have left.
func TestReplayRefuses(t *testing.T) {
	l := Layout{Blocks: 100, Slots: 10}
	tests := []struct {
		name    string
		records []record
		want    error
	}{
		{"one slot, two blocks", []record{{kind: "map", block: 1, n: 3, slot: 4}, {kind: "map", block: 50, n: 1, slot: 6}}, ErrCorrupt},
		{"one slot, one after the other", []record{{kind: "map", block: 1, n: 3, slot: 4}, {kind: "drop", block: 3, n: 1}, {kind: "map", block: 50, n: 1, slot: 6}}, nil},
		{"one slot, in the wrong order until the end", []record{{kind: "map", block: 1, n: 3, slot: 4}, {kind: "map", block: 50, n: 1, slot: 6}, {kind: "home", block: 3, n: 1}}, nil},
		{"slot beyond the spare area", []record{{kind: "map", block: 1, n: 3, slot: 8}}, ErrCorrupt},
		{"negative slot", []record{{kind: "map", block: 1, n: 3, slot: -1}}, ErrCorrupt},
		{"map beyond the disk", []record{{kind: "map", block: 99, n: 2, slot: 0}}, ErrCorrupt},
		{"home beyond the disk", []record{{kind: "home", block: 100, n: 1}}, ErrCorrupt},
		{"drop beyond the disk", []record{{kind: "drop", block: 1, n: 100}}, ErrCorrupt},
		{"negative length", []record{{kind: "drop", block: 1, n: -1}}, ErrCorrupt},
		{"negative block", []record{{kind: "home", block: -1, n: 1}}, ErrCorrupt},
		{"all of it", []record{{kind: "map", block: 90, n: 10, slot: 0}, {kind: "home", block: 0, n: 90}}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := New(l)
			for _, r := range test.records {
				r.replay(s)
			}
			if err := s.FinishReplay(); !errors.Is(err, test.want) {
				t.Fatalf("finish replay: %v, want %v", err, test.want)
			}
		})
	}
}

// TestNotAllowed: every broken rule of the caller panics, and says which.
func TestNotAllowed(t *testing.T) {
	l := Layout{Blocks: 100, Slots: 10}
	tests := []struct {
		name string
		f    func(t *testing.T, s *State)
	}{
		{"map of slots not in flight", func(_ *testing.T, s *State) { s.Map(0, 1, 0, 1) }},
		{"map of slots half in flight", func(t *testing.T, s *State) {
			s.Steal(0, 2)
			r := reserve(t, s, 0, 2)
			s.Map(0, 3, r.Targets()[0].Slot, 1)
		}},
		{"map home under a reservation", func(t *testing.T, s *State) { reserve(t, s, 0, 2); s.MapHome(1, 1, 1) }},
		{"apply twice", func(t *testing.T, s *State) { r := reserve(t, s, 0, 2); r.Apply(1); r.Apply(2) }},
		{"abort after apply", func(t *testing.T, s *State) { r := reserve(t, s, 0, 2); r.Apply(1); r.Abort() }},
		{"release twice", func(_ *testing.T, s *State) { b := s.TakeQuarantine(1); s.Release(b); s.Release(b) }},
		{"lookup beyond the disk", func(_ *testing.T, s *State) { s.Lookup(nil, 99, 2) }},
		{"drop beyond the disk", func(_ *testing.T, s *State) { s.Drop(99, 2, 1) }},
		{"map beyond the spare area", func(_ *testing.T, s *State) { s.Map(0, 2, 9, 1) }},
		{"set present when live", func(_ *testing.T, s *State) { s.SetPresent(0, 1) }},
		{"finish replay twice", func(_ *testing.T, s *State) { _ = s.FinishReplay() }},
		{"reserve in replay", func(*testing.T, *State) { New(l).Reserve(0, 1, nil) }},
		{"steal in replay", func(*testing.T, *State) { New(l).Steal(0, 1) }},
		{"save in replay", func(*testing.T, *State) { _ = New(l).Save(disk.NewMem(1<<20), 1) }},
		{"committed without save", func(_ *testing.T, s *State) { s.Committed(1) }},
		{"save after load, the superblock unsure", func(t *testing.T, s *State) {
			dev := disk.NewMem(StateBytes(l))
			save(t, s, dev, 1)
			_ = load(t, dev, l, 1).Save(dev, 2)
		}},
		{"bad layout", func(*testing.T, *State) { New(Layout{Blocks: -1}) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if v := recover(); v == nil {
					t.Fatal("no panic")
				} else if got := fmt.Sprint(v); len(got) < len("ordered: ") || got[:9] != "ordered: " {
					t.Fatalf("panic %q, want one of ours", got)
				}
			}()
			test.f(t, live(t, l))
		})
	}
}
