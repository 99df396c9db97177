package ordered

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// sim is an engine in small, to show that the places which the state hands out are their
// owners' alone. home and spare hold versions in place of bytes; writers write them without
// any lock, so under the race detector two owners of one place are a data race, and without
// it a reader finds a version that is not the newest.
type sim struct {
	s     *State
	home  []uint64
	spare []uint64

	gate   sync.RWMutex // readers hold it shared, from Lookup to the last byte; before order
	order  sync.RWMutex // the append lock
	pos    int64        // guarded by order
	newest []uint64     // guarded by order; what a reader must find, by block

	inPlace, toSpare, noRoom, robbed, homed, punched, given atomic.Int64 // what happened how often
}

// directWrite writes version to [block, block+n). If there is no room it makes some instead.
func (m *sim) directWrite(rnd *rand.Rand, block, n int64, version uint64) {
	r, ok := m.s.Reserve(block, n, nil)
	if !ok {
		m.noRoom.Add(1)
		m.flush()
		m.homing(block)
		return
	}
	for _, t := range r.Targets() {
		for i := range t.N {
			if rnd.IntN(8) == 0 {
				runtime.Gosched()
			}
			if t.Home {
				m.home[t.Block+i] = version
			} else {
				m.spare[t.Slot+i] = version
			}
		}
	}
	r.Written()
	if rnd.IntN(10) == 0 {
		r.Abort()
		return
	}
	m.order.Lock()
	defer m.order.Unlock()
	if !r.Seal() {
		m.robbed.Add(1)
		r.Abort()
		return
	}
	m.pos++
	if !r.Apply(m.pos) {
		panic("seal did not hold")
	}
	m.set(block, n, version)
	for _, t := range r.Targets() {
		if t.Home {
			m.inPlace.Add(1)
		} else {
			m.toSpare.Add(1)
		}
	}
}

func (m *sim) set(block, n int64, version uint64) {
	for i := range n {
		m.newest[block+i] = version
	}
}

// checkpoint brings version home. The bytes change while nobody reads, because here is no
// log that readers could find them in.
func (m *sim) checkpoint(block, n int64, version uint64) {
	m.s.Steal(block, n)
	m.gate.Lock()
	defer m.gate.Unlock()
	m.order.Lock()
	for i := range n {
		m.home[block+i] = version
	}
	m.pos++
	m.s.MapHome(block, n, m.pos)
	m.set(block, n, version)
	m.order.Unlock()
	m.s.Unbusy(block, n)
}

// homing moves a run of displaced blocks home, if nobody changes them meanwhile.
func (m *sim) homing(from int64) {
	p, ok := m.s.NextDisplaced(from, 16)
	if !ok {
		return
	}
	m.gate.RLock() // the source slots are read like any reader does
	if m.same(p) {
		copy(m.home[p.Block:p.Block+p.N], m.spare[p.Slot:p.Slot+p.N])
		runtime.Gosched()
		m.order.Lock()
		if m.same(p) {
			m.pos++
			m.s.MapHome(p.Block, p.N, m.pos)
			m.homed.Add(1)
		}
		m.order.Unlock()
	}
	m.gate.RUnlock()
	m.s.Unbusy(p.Block, p.N)
}

// same reports whether p is still where it was.
func (m *sim) same(p Piece) bool {
	now := m.s.Lookup(nil, p.Block, p.N)
	return len(now) == 1 && now[0] == p
}

func (m *sim) punch() {
	for _, r := range m.s.TakePunch(4) {
		clear(m.home[r.Start : r.Start+r.N])
		m.punched.Add(1)
		m.s.Unbusy(r.Start, r.N)
	}
}

// giveBack clears free slots, as a host does that takes their space.
func (m *sim) giveBack(slot, n int64) {
	if n = min(n, int64(len(m.spare))-slot); n <= 0 || !m.s.TakeSlots(slot, n) {
		return
	}
	clear(m.spare[slot : slot+n])
	runtime.Gosched()
	clear(m.spare[slot : slot+n])
	m.s.ReturnSlots(slot, n)
	m.given.Add(1)
}

func (m *sim) drop(block, n int64) {
	m.order.Lock()
	defer m.order.Unlock()
	m.pos++
	m.s.Drop(block, n, m.pos)
	m.set(block, n, 0)
}

// flush makes everything durable, waits for the readers, and releases.
func (m *sim) flush() {
	m.order.RLock()
	durable := m.pos + 1
	m.order.RUnlock()
	b := m.s.TakeQuarantine(durable)
	m.gate.Lock() // every reader of before is through
	defer m.gate.Unlock()
	m.s.Release(b)
}

func (m *sim) read(t *testing.T, block, n int64) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	m.order.RLock()
	pieces := m.s.Lookup(nil, block, n)
	newest := slices.Clone(m.newest[block : block+n])
	m.order.RUnlock()
	for _, p := range pieces {
		for i := range p.N {
			if i%4 == 0 {
				runtime.Gosched()
			}
			got := uint64(0)
			switch p.Where {
			case Home:
				got = m.home[p.Block+i]
			case Spare:
				got = m.spare[p.Slot+i]
			}
			if want := newest[p.Block+i-block]; got != want {
				t.Errorf("block %d (%v): version %d, want %d", p.Block+i, p.Where, got, want)
				return
			}
		}
	}
}

// TestOwnersAreAlone: writers, readers, a checkpointer, a homer and a puncher at once.
func TestOwnersAreAlone(t *testing.T) {
	const blocks, slots = 300, 200
	rounds := uint64(12000)
	if raceEnabled {
		rounds = 4000
	}
	m := &sim{
		s: live(t, Layout{Blocks: blocks, Slots: slots}), newest: make([]uint64, blocks),
		home: make([]uint64, blocks), spare: make([]uint64, slots),
	}
	var group sync.WaitGroup
	work := func(seed uint64, f func(rnd *rand.Rand, block, n int64, version uint64)) {
		group.Go(func() { // ends after its rounds; nobody waits for another for ever
			rnd := rand.New(rand.NewPCG(seed, 3))
			for round := range rounds {
				block := rnd.Int64N(blocks)
				f(rnd, block, 1+rnd.Int64N(min(30, blocks-block)), seed<<32+round+1)
			}
		})
	}
	for seed := range uint64(3) {
		work(seed, m.directWrite)
	}
	work(10, func(_ *rand.Rand, block, n int64, _ uint64) { m.read(t, block, n) })
	work(11, func(_ *rand.Rand, block, n int64, _ uint64) { m.read(t, block, n) })
	work(12, func(rnd *rand.Rand, block, n int64, version uint64) {
		switch rnd.IntN(8) {
		case 0:
			m.drop(block, n)
		case 1:
			m.checkpoint(block, n, version)
		case 2:
			m.punch()
		case 3, 4:
			m.homing(block)
		default:
			m.flush()
		}
	})
	work(13, func(rnd *rand.Rand, block, n int64, version uint64) {
		switch rnd.IntN(4) {
		case 0, 1:
			m.checkpoint(block, n, version)
		case 2:
			m.giveBack(block, 1+n/8)
		default:
			m.homing(block)
		}
	})
	group.Wait()
	m.read(t, 0, blocks)
	check(t, m.s)
	if st := m.s.Stats(); st.InFlight != 0 {
		t.Errorf("%+v: nothing is in flight any more", st)
	}
	for what, n := range map[string]int64{
		"in place": m.inPlace.Load(), "to spare": m.toSpare.Load(), "robbed": m.robbed.Load(),
		"homed": m.homed.Load(), "punched": m.punched.Load(), "given back": m.given.Load(),
	} {
		if n == 0 {
			t.Errorf("%s: never, so the test means little", what)
		}
	}
	t.Logf("%d targets in place, %d in spare, %d writes without room, %d robbed; %d runs homed, %d punched",
		m.inPlace.Load(), m.toSpare.Load(), m.noRoom.Load(), m.robbed.Load(), m.homed.Load(), m.punched.Load())
}
