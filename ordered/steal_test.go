package ordered

import (
	"slices"
	"testing"
	"testing/synctest"
)

// stealing starts Steal and reports, at any time after synctest.Wait, whether it returned.
func stealing(s *State, block, n int64) (returned func() bool) {
	done := make(chan struct{})
	go func() { // ends when Steal returns
		defer close(done)
		s.Steal(block, n)
	}()
	return func() bool {
		synctest.Wait()
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
}

// TestStealWaitsForTheWriter: while a direct write may still write, its home is not anybody
// else's; afterwards it is the thief's, and the write knows.
func TestStealWaitsForTheWriter(t *testing.T) {
	endings := []struct {
		name string
		end  func(r *Reservation)
	}{
		{"written, then aborted", func(r *Reservation) { r.Written(); r.Abort() }},
		{"aborted", func(r *Reservation) { r.Abort() }},
		{"applied too late", func(r *Reservation) {
			if r.Apply(1) {
				panic("applied")
			}
		}},
	}
	for _, ending := range endings {
		t.Run(ending.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := live(t, Layout{Blocks: 64, Slots: 64})
				write(t, s, 30, 10, 1)
				r := reserve(t, s, 0, 40) // homes 0 to 30, slots for 30 to 40
				returned := stealing(s, 10, 5)
				if returned() {
					t.Fatal("stolen while the writer may write")
				}
				if r.Valid() || r.Seal() {
					t.Fatal("the writer does not know")
				}
				if other := reserve(t, s, 10, 5); other.Targets()[0].Home {
					t.Fatal("the home went to another write")
				}
				ending.end(r)
				if !returned() {
					t.Fatal("not stolen after the writer's end")
				}
				if st := s.Stats(); st.InFlight != 5 {
					t.Fatalf("%+v: only the other write's 5 slots are in flight", st)
				}
				if got, want := s.TakePunch(10), []Run{{0, 10}, {15, 15}}; !slices.Equal(got, want) {
					t.Fatalf("garbage %v, want %v: the writer's homes but for the thief's", got, want)
				}
				s.MapHome(10, 5, 2)
				s.Unbusy(10, 5)
				check(t, s)
			})
		})
	}
}

// TestStealAfterWritten: the homes go at once, the slots when the writer ends.
func TestStealAfterWritten(t *testing.T) {
	s := live(t, Layout{Blocks: 64, Slots: 64})
	write(t, s, 30, 10, 1)
	r := reserve(t, s, 0, 40)
	r.Written()
	s.Steal(10, 5)
	if other := reserve(t, s, 0, 10); !other.Targets()[0].Home {
		t.Fatal("homes beside the stolen ones are still reserved")
	} else if !other.Apply(2) {
		t.Fatal("stolen from the wrong one")
	}
	if r.Apply(3) {
		t.Fatal("applied without homes")
	}
	if got := s.TakePunch(10); !slices.Equal(got, []Run{{15, 15}}) {
		t.Fatalf("garbage %v, want the homes that nobody took", got)
	}
	if st := s.Stats(); st.InFlight != 0 || st.SpareFree != 64 || st.Present != 20 {
		t.Fatalf("%+v after the abort", st)
	}
	check(t, s)
}

// TestStealWaitsForSeal: what is sealed is applied, and the thief sees it.
func TestStealWaitsForSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, Layout{Blocks: 64, Slots: 64})
		r := reserve(t, s, 0, 10)
		r.Written()
		if !r.Seal() {
			t.Fatal("nobody has stolen yet")
		}
		returned := stealing(s, 0, 64)
		if returned() {
			t.Fatal("stolen from a sealed write")
		}
		if !r.Valid() || !r.Apply(1) {
			t.Fatal("seal did not hold")
		}
		if !returned() {
			t.Fatal("not stolen after the apply")
		}
		if got := bases(s); got[0].Where != Home || got[0].N != 10 {
			t.Fatalf("%v: the applied write must show", got)
		}

		// Unseal lets the thief in.
		s.Unbusy(0, 64)
		r = reserve(t, s, 20, 10)
		r.Written()
		r.Seal()
		returned = stealing(s, 0, 64)
		if returned() {
			t.Fatal("stolen from a sealed write")
		}
		r.Unseal()
		if !returned() || r.Seal() {
			t.Fatal("not stolen after unseal, or the writer does not know")
		}
		r.Abort()
		check(t, s)
	})
}

// TestStealWaitsForOtherOwners: two background writers never have one home.
func TestStealWaitsForOtherOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, Layout{Blocks: 64, Slots: 64})
		s.Drop(0, 10, 1)
		release(s, 2)
		punch := s.TakePunch(1)
		if !slices.Equal(punch, []Run{{0, 10}}) {
			t.Fatalf("punch %v", punch)
		}
		returned := stealing(s, 9, 5)
		if returned() {
			t.Fatal("stolen from under the puncher")
		}
		s.Unbusy(0, 10)
		if !returned() {
			t.Fatal("not stolen after unbusy")
		}
	})
}
