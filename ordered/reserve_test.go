package ordered

import (
	"slices"
	"testing"
)

// TestWriteOnceGoesOn is the cycle of DESIGN, section 5: home, spare, home again, and so on
// for ever, as long as the blocks being overwritten fit in spare.
func TestWriteOnceGoesOn(t *testing.T) {
	s := live(t, Layout{Blocks: 64, Slots: 8})
	pos := int64(0)
	for pass := range 100 {
		pos++
		targets := write(t, s, 8, 8, pos)
		want := []Target{{Block: 8, N: 8, Home: true}}
		if pass%2 == 1 {
			want = []Target{{Block: 8, N: 8}}
		}
		if !slices.Equal(targets, want) {
			t.Fatalf("pass %d: targets %v, want %v", pass, targets, want)
		}
		release(s, pos+1)
		check(t, s)
	}
}

// TestQuarantine: what a change gives up is not handed out before the change is durable, and
// the batch released (I2).
func TestQuarantine(t *testing.T) {
	s := live(t, Layout{Blocks: 8, Slots: 8})
	write(t, s, 0, 8, 10) // home
	write(t, s, 0, 8, 20) // spare; homes in quarantine
	if _, ok := s.Reserve(0, 8, nil); ok {
		t.Fatal("homes given up at 20 were handed out, or slots in use")
	}
	if s.Quarantined(20) {
		t.Fatal("position 20 is not before 20")
	}
	if !s.Quarantined(21) {
		t.Fatal("position 20 is before 21")
	}
	b := s.TakeQuarantine(21)
	if _, ok := s.Reserve(0, 8, nil); ok {
		t.Fatal("homes of a batch that is not released were handed out")
	}
	s.Release(b)
	if got := write(t, s, 0, 8, 30); !got[0].Home { // home; slots in quarantine
		t.Fatalf("targets %v, want homes", got)
	}
	if st := s.Stats(); st.SpareFree != 0 || st.Quarantined != 8 {
		t.Fatalf("%+v: slots given up at 30 must wait", st)
	}
	release(s, 31)
	if st := s.Stats(); st.SpareFree != 8 {
		t.Fatalf("%+v: all slots are free now", st)
	}
}

// TestReleaseSparesTheLaterChange: a home that was filled and given up again after its batch
// was taken waits for the later change.
func TestReleaseSparesTheLaterChange(t *testing.T) {
	s := live(t, Layout{Blocks: 8, Slots: 8})
	write(t, s, 0, 1, 10)
	s.Drop(0, 1, 20)
	b := s.TakeQuarantine(21)
	s.Steal(0, 1)
	s.MapHome(0, 1, 30)
	s.Unbusy(0, 1)
	s.Drop(0, 1, 40)
	s.Release(b)
	if r := reserve(t, s, 0, 1); r.Targets()[0].Home {
		t.Fatal("the home that was given up at 40 was handed out by a release for 20")
	}
}

// TestShortSpareReservesNothing: a write that does not fit leaves no trace.
func TestShortSpareReservesNothing(t *testing.T) {
	s := live(t, Layout{Blocks: 64, Slots: 8})
	write(t, s, 10, 20, 1)
	before := s.Stats()
	if _, ok := s.Reserve(0, 64, nil); ok {
		t.Fatal("20 blocks are present, 8 slots free, and there was room")
	}
	if after := s.Stats(); after != before {
		t.Fatalf("%+v, want %+v as before", after, before)
	}
	if r := reserve(t, s, 0, 10); !r.Targets()[0].Home {
		t.Fatal("the homes of the failed reservation are still reserved")
	}
}

// TestCanHomeRefuses: refused homes go to spare and are anybody's again.
func TestCanHomeRefuses(t *testing.T) {
	s := live(t, Layout{Blocks: 64, Slots: 64})
	write(t, s, 10, 5, 1)
	var asked []Run
	r, ok := s.Reserve(0, 30, func(block, n int64) bool {
		asked = append(asked, Run{block, n})
		return block != 0
	})
	if want := []Run{{0, 10}, {15, 15}}; !ok || !slices.Equal(asked, want) {
		t.Fatalf("asked %v, want %v", asked, want)
	}
	if want := []Target{{Block: 0, N: 15}, {Block: 15, N: 15, Home: true}}; !slices.Equal(r.Targets(), want) {
		t.Fatalf("targets %v, want %v", r.Targets(), want)
	}
	if other := reserve(t, s, 0, 10); !other.Targets()[0].Home {
		t.Fatal("the refused homes are still reserved")
	}
}

// TestOverlappingWrites: the later in the log wins, whoever reserved first.
func TestOverlappingWrites(t *testing.T) {
	for _, homeFirst := range []bool{true, false} {
		s := live(t, Layout{Blocks: 8, Slots: 8})
		home := reserve(t, s, 0, 8)
		slots := reserve(t, s, 0, 8)
		if !home.Targets()[0].Home || slots.Targets()[0].Home {
			t.Fatal("two writes got one home, or none")
		}
		want := Spare
		if homeFirst {
			home.Apply(1)
			slots.Apply(2)
		} else {
			slots.Apply(1)
			home.Apply(2)
			want = Home
		}
		if got := bases(s); len(got) != 1 || got[0].Where != want {
			t.Fatalf("home first %v: %v, want all in %v", homeFirst, got, want)
		}
		check(t, s)
	}
}

// TestSpareRunsAreLong: a write gets few runs, even where freed slots lie scattered.
func TestSpareRunsAreLong(t *testing.T) {
	l := Layout{Blocks: 1 << 17, Slots: 1 << 15}
	s := New(l)
	s.SetPresent(0, l.Blocks)
	finish(t, s)
	for block := int64(0); block < 4096; block++ {
		if got := write(t, s, block, 1, 1); got[0].Slot != block {
			t.Fatalf("slot %d for block %d: slots are given out from the lowest on", got[0].Slot, block)
		}
	}
	for block := int64(0); block < 4096; block += 2 {
		s.Drop(block, 1, 2)
	}
	release(s, 3)
	if got := write(t, s, 20000, 256, 4); len(got) != 1 || got[0].Slot != 4096 {
		t.Fatalf("targets %v, want one run of fresh slots", got)
	}
	if got := write(t, s, 30000, 1, 5); got[0].Slot != 0 {
		t.Fatalf("targets %v, want the lowest free slot", got)
	}
	// With the top used up, even scattered slots serve.
	write(t, s, 90000, l.Slots-4096-256, 6)
	free := s.Stats().SpareFree
	if got := write(t, s, 20500, free, 7); int64(len(got)) != free {
		t.Fatalf("%d targets for %d scattered slots", len(got), free)
	}
	if _, ok := s.Reserve(50000, 1, nil); ok {
		t.Fatal("a slot out of nowhere")
	}
	check(t, s)
}

// TestKeepApart: short runs and long ones have slots of their own while there are any, and
// those of the others after that.
func TestKeepApart(t *testing.T) {
	const slots, apart, most = 100, 60, 4
	s := live(t, Layout{Blocks: 400, Slots: slots})
	s.KeepApart(apart, most)
	homes := func(block, n int64) { release(s, write1(t, s, block, n)) }
	block := int64(0)
	// overwrite displaces n blocks that were never written before.
	overwrite := func(n int64) []Target {
		homes(block, n)
		targets := write(t, s, block, n, block+2)
		block += n
		return targets
	}
	for range 8 { // 40 of the 60 slots of long runs, 32 of the 40 of short ones
		for _, x := range overwrite(5) {
			if x.Slot+x.N > apart {
				t.Errorf("a long run is in slots [%d,+%d)", x.Slot, x.N)
			}
		}
		for _, x := range overwrite(4) {
			if x.Slot < apart {
				t.Errorf("a short run is in slots [%d,+%d)", x.Slot, x.N)
			}
		}
	}
	for used := int64(72); used < slots; used += 4 { // all that is left is for short runs, too
		overwrite(4)
	}
	if st := s.Stats(); st.SpareFree != 0 || st.Displaced != slots {
		t.Errorf("%d slots are free, %d blocks displaced", st.SpareFree, st.Displaced)
	}
	check(t, s)
}

// write1 writes blocks for the first time, and returns the log position behind that.
func write1(t *testing.T, s *State, block, n int64) int64 {
	t.Helper()
	for _, x := range write(t, s, block, n, block+1) {
		if !x.Home {
			t.Fatalf("the first version of [%d,+%d) is not at home", block, n)
		}
	}
	return block + 2
}
