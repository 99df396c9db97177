package ordered

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
)

// bigLayout has several pages of each kind, two levels of index, and partly used last pages.
var bigLayout = Layout{Blocks: 3*bitsPerPage + 100, Slots: 600*wordsPerPage + 10}

// changeAtRandom makes some changes that touch a few pages each.
func changeAtRandom(s *State, rnd *rand.Rand, changes int, pos *int64) {
	h := &storyteller{s: s, rnd: rnd, pos: *pos}
	for range changes {
		if rnd.IntN(4) > 0 {
			h.step()
			continue
		}
		h.pos++
		block := rnd.Int64N(s.layout.Blocks)
		n := min(1+rnd.Int64N(20000), s.layout.Blocks-block)
		if rnd.IntN(2) == 0 {
			s.Drop(block, n, h.pos)
		} else if r, ok := s.Reserve(block, n, nil); ok {
			r.Apply(h.pos)
		}
	}
	*pos = h.pos
}

// TestSaveLoad: many saves, some of them never committed; what loads is always the newest
// committed state.
func TestSaveLoad(t *testing.T) {
	for _, l := range []Layout{{}, {Blocks: 1}, {Slots: 1}, {Blocks: 1000, Slots: 100}, {Blocks: bitsPerPage, Slots: wordsPerPage}, bigLayout} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, uint64(l.Blocks)))
			dev := disk.NewMem(StateBytes(l))
			s := live(t, l)
			committed, generation, pos := uint64(0), uint64(0), int64(0)
			want := bases(s)
			for range 40 {
				if l.Blocks > 0 {
					changeAtRandom(s, rnd, rnd.IntN(12), &pos)
				}
				generation += 1 + rnd.Uint64N(3)
				if err := s.Save(dev, generation); err != nil {
					t.Fatal(err)
				}
				now := bases(s)
				if rnd.IntN(3) > 0 {
					if l.Blocks > 0 { // changes after the save are not in it
						s.Drop(0, l.Blocks/2, pos)
					}
					s.Committed(generation)
					committed, want = generation, now
				}
				if got := bases(load(t, dev, l, committed)); !slices.Equal(got, want) {
					t.Fatalf("generation %d: loaded %v, want %v", committed, got, want)
				}
				if rnd.IntN(6) == 0 { // a restart, which forgets what was not committed
					s = load(t, dev, l, committed)
					s.Committed(committed)
					generation = committed
				}
			}
		})
	}
}

// counting counts writes.
type counting struct {
	disk.Device
	writes int
}

func (c *counting) WriteAt(p []byte, off int64) (int, error) {
	c.writes++
	return c.Device.WriteAt(p, off)
}

// TestSaveWritesWhatChanged: pages that say the same as before are not written.
func TestSaveWritesWhatChanged(t *testing.T) {
	l := bigLayout
	dev := &counting{Device: disk.NewMem(StateBytes(l))}
	s := New(l)
	s.SetPresent(0, 100)
	finish(t, s)
	generation := uint64(0)
	expect := func(what string, want int) {
		t.Helper()
		generation++
		dev.writes = 0
		save(t, s, dev, generation)
		if dev.writes != want {
			t.Fatalf("%s: %d pages written, want %d", what, dev.writes, want)
		}
	}
	expect("the first save", 4) // bits, index, root; zeros over the root's other place
	expect("nothing changed", 1)
	write(t, s, 200, 10, 1)
	expect("one write in place", 3)
	write(t, s, 200, 10, 2)
	expect("one write to spare", 4)
	s.Drop(10_000, 20_000, 3)
	expect("trim of what is absent", 1)
	s.Drop(200, 10, 4)
	expect("trim, the slot page is empty again", 2)
	if err := s.Save(dev, generation); err == nil {
		t.Fatal("the same generation again: no error")
	}
	if err := s.Save(disk.NewMem(StateBytes(l)-1), generation+1); err == nil {
		t.Fatal("a device too small: no error")
	}
}

// TestSaveWhileChanging: a save holds the state of one moment, whatever goes on beside it.
func TestSaveWhileChanging(t *testing.T) {
	l := Layout{Blocks: 2000, Slots: 2000}
	g := crashdisk.NewGroup(1)
	dev := g.Disk("state", StateBytes(l))
	rnd := rand.New(rand.NewPCG(2, 2))
	s := live(t, l)
	pos := int64(0)
	for generation := uint64(1); generation <= 30; generation++ {
		changeAtRandom(s, rnd, 20, &pos)
		want := bases(s)
		g.OnOp(func(int, string) { changeAtRandom(s, rnd, 3, &pos) })
		save(t, s, dev, generation)
		g.OnOp(nil)
		if got := bases(load(t, dev, l, generation)); !slices.Equal(got, want) {
			t.Fatalf("generation %d: loaded %v, want %v", generation, got, want)
		}
	}
}

// crashLayout is small, and has several pages of each kind.
var crashLayout = Layout{Blocks: bitsPerPage + 50, Slots: 3 * wordsPerPage}

// machine is a state's device and a superblock that holds one number in one sector.
type machine struct {
	g     *crashdisk.Group
	dev   *crashdisk.Disk
	super *crashdisk.Disk
}

func on(g *crashdisk.Group) machine {
	return machine{g: g, dev: g.Disk("state", StateBytes(crashLayout)), super: g.Disk("super", 512)}
}

func (m machine) committed() (uint64, error) {
	var b [512]byte
	_, err := m.super.ReadAt(b[:], 0)
	return binary.LittleEndian.Uint64(b[:]), err
}

// name makes the superblock name a generation, durably.
func (m machine) name(generation uint64) error {
	var b [512]byte
	binary.LittleEndian.PutUint64(b[:], generation)
	if _, err := m.super.WriteAt(b[:], 0); err != nil {
		return err
	}
	return m.super.Flush()
}

// life loads what is committed and saves it, changed, some times. It returns the generation
// that is surely durable, and the states by generation that may be found.
func (m machine) life(seed uint64, saves int, states map[uint64][]Piece) (durable uint64, err error) {
	generation, err := m.committed()
	if err != nil {
		return 0, err
	}
	s, err := Load(m.dev, crashLayout, generation)
	if err != nil {
		return 0, err
	}
	if err := s.FinishReplay(); err != nil {
		return 0, err
	}
	states[generation] = bases(s)
	// As found, the superblock may be in the cache only.
	if err := m.name(generation); err != nil {
		return 0, err
	}
	s.Committed(generation)
	durable = generation
	pos := int64(1)
	rnd := rand.New(rand.NewPCG(seed, generation))
	for range saves {
		changeAtRandom(s, rnd, 6, &pos)
		generation++
		if err := s.Save(m.dev, generation); err != nil {
			return durable, err
		}
		states[generation] = bases(s)
		if err := m.dev.Flush(); err != nil {
			return durable, err
		}
		if err := m.name(generation); err != nil {
			return durable, err
		}
		durable = generation
		s.Committed(generation)
	}
	return durable, nil
}

// expect loads what the superblock names: at least the durable one, and whole.
func (m machine) expect(t *testing.T, durable uint64, states map[uint64][]Piece, where string) {
	t.Helper()
	generation, err := m.committed()
	if err != nil {
		t.Fatal(err)
	}
	want, known := states[generation]
	if generation < durable || generation > 0 && !known {
		t.Fatalf("%s: generation %d, want %d at least", where, generation, durable)
	}
	s, err := Load(m.dev, crashLayout, generation)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	finish(t, s)
	if got := bases(s); generation > 0 && !slices.Equal(got, want) {
		t.Fatalf("%s: generation %d: %v, want %v", where, generation, got, want)
	}
	check(t, s)
}

// TestCrashAtEveryOperation: crash at each operation of a life with several saves, look at
// many images, and crash again at each operation of the life that follows.
func TestCrashAtEveryOperation(t *testing.T) {
	const saves, images = 4, 5
	crashes, states := 0, 0
	for k := 1; ; k++ {
		first := crashdisk.NewGroup(int64(k))
		first.CrashAt(k)
		found := map[uint64][]Piece{}
		surely, err := on(first).life(7, saves, found)
		if err == nil {
			break
		}
		if !errors.Is(err, crashdisk.ErrCrashed) {
			t.Fatalf("crash at %d: %v", k, err)
		}
		crashes++
		for seed, image := range first.Images(images) {
			where := fmt.Sprintf("crash at %d (%s), image %d", k, first.OpInfo(k), seed)
			on(image).expect(t, surely, found, where)
			states++
			if seed >= 3 || raceEnabled && seed != int64(k)%3 {
				continue
			}
			for again := 1; ; again++ {
				second := first.Image(seed)
				second.CrashAt(again)
				later := map[uint64][]Piece{}
				durable, err := on(second).life(uint64(8+seed), 2, later)
				if err == nil {
					break
				}
				if !errors.Is(err, crashdisk.ErrCrashed) {
					t.Fatalf("%s, then crash at %d: %v", where, again, err)
				}
				// What the second life had found may have been in the cache only.
				for generation, pieces := range found {
					if _, ok := later[generation]; !ok {
						later[generation] = pieces
					}
				}
				durable = max(durable, surely)
				for last, after := range second.Images(2) {
					on(after).expect(t, durable, later, fmt.Sprintf("%s, then crash at %d, image %d", where, again, last))
					states++
				}
			}
		}
	}
	if crashes < 25 {
		t.Fatalf("only %d operations to crash at", crashes)
	}
	t.Logf("%d crash points, %d states", crashes, states)
}

// TestErrorAtEveryOperation: no failed write of a save goes unnoticed, the committed state
// stays, and the pages of a failed save are saved by the next one.
func TestErrorAtEveryOperation(t *testing.T) {
	const saves = 3
	for k := 1; ; k++ {
		g := crashdisk.NewGroup(int64(k))
		g.FailAt(k, syscall.EIO)
		m := on(g)
		states := map[uint64][]Piece{}
		durable, err := m.life(7, saves, states)
		if !g.Failed() {
			if k < 20 {
				t.Fatalf("only %d operations", k)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("operation %d (%s) failed, and the answer is %v", k, g.OpInfo(k), err)
		}
		m.expect(t, durable, states, fmt.Sprintf("error at %d (%s)", k, g.OpInfo(k)))
	}
}

// TestSaveAfterFailedSave: what a failed save did not write is still to be written.
func TestSaveAfterFailedSave(t *testing.T) {
	for k := 1; k <= 8; k++ {
		g := crashdisk.NewGroup(int64(k))
		g.FailAt(k, syscall.ENOSPC)
		m := on(g)
		s := live(t, crashLayout)
		write(t, s, 0, bitsPerPage+50, 1)
		write(t, s, 100, 1200, 2)
		err := s.Save(m.dev, 1)
		if !g.Failed() {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("write %d failed, and the answer is %v", k, err)
		}
		save(t, s, m.dev, 2)
		if got, want := bases(load(t, m.dev, crashLayout, 2)), bases(s); !slices.Equal(got, want) {
			t.Fatalf("write %d failed: loaded %v, want %v", k, got, want)
		}
	}
}

// TestReadErrors: a read that fails fails the load, and is named.
func TestReadErrors(t *testing.T) {
	l := bigLayout
	g := crashdisk.NewGroup(1)
	dev := g.Disk("state", StateBytes(l))
	s := live(t, l)
	write(t, s, 0, l.Blocks, 1)
	write(t, s, 0, l.Blocks, 2)
	save(t, s, dev, 1)
	load(t, dev, l, 1)
	reads := g.Reads()
	for k := 1; k <= reads; k++ {
		again := g.Image(crashdisk.SeedKill)
		again.FailReadAt(k, syscall.EIO)
		if _, err := Load(again.Disk("state", StateBytes(l)), l, 1); !errors.Is(err, syscall.EIO) {
			t.Fatalf("read %d of %d fails: %v", k, reads, err)
		}
	}
}
