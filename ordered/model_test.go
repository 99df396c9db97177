package ordered

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the state as plain arrays, one element a block or slot, with the rules written
// down a second time.
type model struct {
	s       *State
	base    []Piece // of each block, N 1
	slots   []slotModel
	homes   []homeModel
	garbage []bool

	pos     int64
	stamp   int
	open    []*reservationModel
	busy    []Run
	waiting []waitModel // not taken
	batches []*batchModel
}

type slotModel uint8

const (
	free slotModel = iota
	flight
	inUse
	gone // quarantine
)

type homeModel struct {
	owner *reservationModel
	busy  bool
	wait  int // stamp of the entry it waits for, 0 for none
}

type reservationModel struct {
	r      *Reservation
	stolen bool
}

// waitModel is one home or slot in quarantine.
type waitModel struct {
	pos   int64
	home  bool
	at    int64
	stamp int
}

type batchModel struct {
	b       *Batch
	entries []waitModel
}

func newModel(s *State) *model {
	m := &model{
		s: s, base: make([]Piece, s.layout.Blocks), slots: make([]slotModel, s.layout.Slots),
		homes: make([]homeModel, s.layout.Blocks), garbage: make([]bool, s.layout.Blocks),
	}
	for i := range m.base {
		m.base[i] = Piece{Block: int64(i), N: 1}
	}
	return m
}

// leave makes a block absent.
func (m *model) leave(block int64) {
	b := &m.base[block]
	switch b.Where {
	case Home:
		m.stamp++
		m.homes[block].wait = m.stamp
		m.waiting = append(m.waiting, waitModel{pos: m.pos, home: true, at: block, stamp: m.stamp})
	case Spare:
		m.slots[b.Slot] = gone
		m.waiting = append(m.waiting, waitModel{pos: m.pos, at: b.Slot})
	}
	b.Where, b.Slot = Absent, 0
}

func (m *model) toHome(block int64) {
	if m.base[block].Where == Spare {
		m.leave(block)
	}
	m.base[block].Where = Home
	m.homes[block].wait = 0
	m.garbage[block] = false
}

func (m *model) toSpare(block, slot int64) {
	m.leave(block)
	m.base[block].Where, m.base[block].Slot = Spare, slot
	m.slots[slot] = inUse
	m.garbage[block] = false
}

func (m *model) openHome(block int64) bool {
	h := m.homes[block]
	return h.owner == nil && !h.busy && h.wait == 0
}

// end takes a reservation off the books.
func (m *model) end(r *reservationModel) {
	for i := range m.homes {
		if m.homes[i].owner == r {
			m.homes[i].owner = nil
		}
	}
	m.open = slices.DeleteFunc(m.open, func(o *reservationModel) bool { return o == r })
}

// aborted is what Abort leaves.
func (m *model) aborted(r *reservationModel) {
	for _, t := range r.r.Targets() {
		for i := range t.N {
			if !t.Home {
				m.slots[t.Slot+i] = free
			} else if m.homes[t.Block+i].owner == r {
				m.garbage[t.Block+i] = true
			}
		}
	}
	m.end(r)
}

// expect compares everything that can be seen.
func (m *model) expect(t *rapid.T) {
	var want []Piece
	for _, b := range m.base {
		if last := len(want) - 1; last >= 0 {
			w := &want[last]
			if w.Where == b.Where && (b.Where != Spare || w.Slot+w.N == b.Slot) {
				w.N++
				continue
			}
		}
		want = append(want, b)
	}
	if got := bases(m.s); !slices.Equal(got, want) {
		t.Fatalf("bases:\n%v\nwant\n%v", got, want)
	}
	count := map[slotModel]int64{}
	for _, s := range m.slots {
		count[s]++
	}
	where := map[Where]int64{}
	for _, b := range m.base {
		where[b.Where]++
	}
	got := m.s.Stats()
	got.Runs = 0
	if want := (Stats{
		Present: where[Home], Displaced: where[Spare], SpareUsed: int64(len(m.slots)) - count[free],
		SpareFree: count[free], InFlight: count[flight], Quarantined: count[gone], Newest: got.Newest,
	}); got != want {
		t.Fatalf("stats %+v, want %+v", got, want)
	}
	if err := inspect(m.s); err != nil {
		t.Fatal(err)
	}
}

func (m *model) drawRange(t *rapid.T) (block, n int64) {
	blocks := int64(len(m.base))
	block = rapid.Int64Range(0, blocks-1).Draw(t, "block")
	n = rapid.Int64Range(1, min(40, blocks-block)).Draw(t, "n")
	return block, n
}

func (m *model) reserve(t *rapid.T) {
	block, n := m.drawRange(t)
	refuseFrom := rapid.Int64Range(0, int64(len(m.base))).Draw(t, "refuse from")
	canHome := func(at, n int64) bool { return at+n <= refuseFrom }
	free0 := m.s.Stats().SpareFree
	r, ok := m.s.Reserve(block, n, canHome)
	if !ok {
		// Every block refused by canHome, as part of its run, or without an open home.
		need := int64(0)
		for at := block; at < block+n; {
			k := int64(1)
			home := m.base[at].Where != Home && m.openHome(at)
			for at+k < block+n && (m.base[at+k].Where != Home && m.openHome(at+k)) == home {
				k++
			}
			if !home || !canHome(at, k) {
				need += k
			}
			at += k
		}
		if need <= free0 {
			t.Fatalf("no room for [%d,+%d), but %d slots are needed and %d free", block, n, need, free0)
		}
		return
	}
	rm := &reservationModel{r: r}
	at := block
	for _, target := range r.Targets() {
		if target.Block != at || target.N < 1 {
			t.Fatalf("targets %v of [%d,+%d): not in order", r.Targets(), block, n)
		}
		at += target.N
		for i := range target.N {
			b := target.Block + i
			if target.Home {
				if m.base[b].Where == Home || !m.openHome(b) || b >= refuseFrom {
					t.Fatalf("home of %d was given out: it is %v, %+v, refused from %d on", b, m.base[b].Where, m.homes[b], refuseFrom)
				}
				m.homes[b].owner = rm
				continue
			}
			if m.slots[target.Slot+i] != free {
				t.Fatalf("slot %d was given out, and is %d (I1)", target.Slot+i, m.slots[target.Slot+i])
			}
			m.slots[target.Slot+i] = flight
			if m.base[b].Where != Home && m.openHome(b) && block+n <= refuseFrom {
				t.Fatalf("block %d goes to spare, its home is open", b)
			}
		}
	}
	if at != block+n {
		t.Fatalf("targets %v of [%d,+%d): not all", r.Targets(), block, n)
	}
	m.open = append(m.open, rm)
}

func (m *model) drawOpen(t *rapid.T) *reservationModel {
	if len(m.open) == 0 {
		t.Skip("no reservation")
	}
	return rapid.SampledFrom(m.open).Draw(t, "reservation")
}

func (m *model) apply(t *rapid.T) {
	r := m.drawOpen(t)
	m.pos += rapid.Int64Range(0, 2).Draw(t, "step")
	if rapid.Bool().Draw(t, "seal") && r.r.Seal() == r.stolen {
		t.Fatalf("seal says %v, stolen is %v", !r.stolen, r.stolen)
	}
	if valid := r.r.Valid(); valid == r.stolen {
		t.Fatalf("valid %v, stolen %v", valid, r.stolen)
	}
	if applied := r.r.Apply(m.pos); applied == r.stolen {
		t.Fatalf("applied %v, stolen %v", applied, r.stolen)
	}
	if r.stolen {
		m.aborted(r)
		return
	}
	m.end(r)
	for _, target := range r.r.Targets() {
		for i := range target.N {
			if target.Home {
				m.toHome(target.Block + i)
			} else {
				m.toSpare(target.Block+i, target.Slot+i)
			}
		}
	}
}

// steal: like a checkpointer, but every writer that it would wait for is made to finish
// first.
func (m *model) steal(t *rapid.T) {
	block, n := m.drawRange(t)
	for i := block; i < block+n; i++ {
		if m.homes[i].busy {
			t.Skip("busy")
		}
	}
	var robbed []*reservationModel
	for i := block; i < block+n; i++ {
		if r := m.homes[i].owner; r != nil && !slices.Contains(robbed, r) {
			robbed = append(robbed, r)
			r.r.Written()
		}
	}
	m.s.Steal(block, n)
	for _, r := range robbed {
		r.stolen = true
		for i := range m.homes {
			if m.homes[i].owner == r {
				m.homes[i].owner = nil
				m.garbage[i] = true
			}
		}
	}
	m.makeBusy(block, n)
}

func (m *model) makeBusy(block, n int64) {
	for i := block; i < block+n; i++ {
		m.homes[i].busy = true
	}
	m.busy = append(m.busy, Run{Start: block, N: n})
}

// finishBusy ends a background write: sometimes its block is at home now.
func (m *model) finishBusy(t *rapid.T) {
	if len(m.busy) == 0 {
		t.Skip("nothing busy")
	}
	i := rapid.IntRange(0, len(m.busy)-1).Draw(t, "busy")
	b := m.busy[i]
	m.busy = slices.Delete(m.busy, i, i+1)
	if rapid.Bool().Draw(t, "filled") {
		m.pos++
		m.s.MapHome(b.Start, b.N, m.pos)
		for k := range b.N {
			m.toHome(b.Start + k)
		}
	}
	m.s.Unbusy(b.Start, b.N)
	for k := range b.N {
		m.homes[b.Start+k].busy = false
	}
}

func (m *model) drop(t *rapid.T) {
	block, n := m.drawRange(t)
	m.pos++
	m.s.Drop(block, n, m.pos)
	for i := block; i < block+n; i++ {
		m.leave(i)
		m.garbage[i] = true
	}
}

func (m *model) take(t *rapid.T) {
	durable := rapid.Int64Range(max(0, m.pos-10), m.pos+1).Draw(t, "durable")
	i := 0
	for i < len(m.waiting) && m.waiting[i].pos < durable {
		i++
	}
	if got := m.s.Quarantined(durable); got != (i > 0) {
		t.Fatalf("quarantined(%d) is %v, want %v", durable, got, i > 0)
	}
	b := &batchModel{b: m.s.TakeQuarantine(durable), entries: m.waiting[:i:i]}
	m.waiting = m.waiting[i:]
	var slots []int64
	for _, r := range b.b.Slots() {
		for k := range r.N {
			slots = append(slots, r.Start+k)
		}
	}
	var want []int64
	for _, e := range b.entries {
		if !e.home {
			want = append(want, e.at)
		}
	}
	slices.Sort(slots)
	slices.Sort(want)
	if !slices.Equal(slots, want) {
		t.Fatalf("the batch has slots %v, want %v", slots, want)
	}
	m.batches = append(m.batches, b)
}

func (m *model) release(t *rapid.T) {
	if len(m.batches) == 0 {
		t.Skip("no batch")
	}
	i := rapid.IntRange(0, len(m.batches)-1).Draw(t, "batch")
	b := m.batches[i]
	m.batches = slices.Delete(m.batches, i, i+1)
	m.s.Release(b.b)
	for _, e := range b.entries {
		switch {
		case !e.home:
			m.slots[e.at] = free
		case m.homes[e.at].wait == e.stamp:
			m.homes[e.at].wait = 0
		}
	}
}

func (m *model) homing(t *rapid.T) {
	from := rapid.Int64Range(0, int64(len(m.base))).Draw(t, "from")
	most := rapid.Int64Range(1, 10).Draw(t, "most")
	first := from
	for first < int64(len(m.base)) && (m.base[first].Where != Spare || !m.openHome(first)) {
		first++
	}
	p, ok := m.s.NextDisplaced(from, most)
	if ok != (first < int64(len(m.base))) || ok && p.Block != first {
		t.Fatalf("next displaced from %d: %+v %v, want block %d", from, p, ok, first)
	}
	if !ok {
		return
	}
	if p.N < 1 || p.N > most {
		t.Fatalf("next displaced: %+v, want at most %d blocks", p, most)
	}
	for i := range p.N {
		if b := m.base[p.Block+i]; b.Where != Spare || b.Slot != p.Slot+i || !m.openHome(p.Block+i) {
			t.Fatalf("next displaced: %+v, but block %d is %+v, its home %+v", p, p.Block+i, b, m.homes[p.Block+i])
		}
	}
	m.makeBusy(p.Block, p.N)
}

func (m *model) punch(t *rapid.T) {
	most := rapid.IntRange(1, 20).Draw(t, "most")
	runs := m.s.TakePunch(most)
	if len(runs) > most {
		t.Fatalf("%d runs, want at most %d", len(runs), most)
	}
	for _, r := range runs {
		for i := r.Start; i < r.Start+r.N; i++ {
			if !m.garbage[i] || m.base[i].Where != Absent || !m.openHome(i) {
				t.Fatalf("punch %d: garbage %v, %v, home %+v", i, m.garbage[i], m.base[i].Where, m.homes[i])
			}
			m.garbage[i] = false
		}
		m.makeBusy(r.Start, r.N)
	}
	if len(runs) == most {
		return
	}
	for i := range m.garbage {
		if m.garbage[i] && m.base[i].Where == Absent && m.openHome(int64(i)) {
			t.Fatalf("block %d could be punched, and was left out", i)
		}
	}
}

func (m *model) absent(t *rapid.T) {
	var got []int64
	for from := int64(0); ; {
		runs := m.s.AbsentRuns(from, 2)
		for _, r := range runs {
			for i := range r.N {
				got = append(got, r.Start+i)
			}
			from = r.Start + r.N
		}
		if len(runs) < 2 {
			break
		}
	}
	var want []int64
	for i, b := range m.base {
		if b.Where == Absent {
			want = append(want, int64(i))
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("absent %v, want %v", got, want)
	}
}

// TestModel runs random calls against the arrays.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{Blocks: rapid.Int64Range(1, 200).Draw(t, "blocks"), Slots: rapid.Int64Range(0, 100).Draw(t, "slots")}
		s := New(l)
		if err := s.FinishReplay(); err != nil {
			t.Fatal(err)
		}
		m := newModel(s)
		actions := map[string]func(*rapid.T){
			"":           m.expect,
			"reserve":    m.reserve,
			"reserve 2":  m.reserve,
			"apply":      m.apply,
			"apply 2":    m.apply,
			"written":    func(t *rapid.T) { m.drawOpen(t).r.Written() },
			"abort":      func(t *rapid.T) { r := m.drawOpen(t); r.r.Abort(); m.aborted(r) },
			"steal":      m.steal,
			"end busy":   m.finishBusy,
			"end busy 2": m.finishBusy,
			"drop":       m.drop,
			"take":       m.take,
			"release":    m.release,
			"homing":     m.homing,
			"punch":      m.punch,
			"absent":     m.absent,
		}
		for range 8 { // a longer story than rapid's 30 steps
			t.Repeat(actions)
		}
	})
}
