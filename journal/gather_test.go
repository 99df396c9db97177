package journal

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// medium stalls the writes to a disk's journal, and counts those that it stalls.
type medium struct {
	bulk, appends       atomic.Int64 // in the medium now
	letBulk, letAppends chan struct{}
	over                sync.WaitGroup
	mu                  sync.Mutex
	sizes               []int64 // guarded by mu; bytes of each bulk write that came
}

const bulkOfTest = 512 << 10

func (m *medium) stall(g *crashdisk.Group) {
	m.letBulk, m.letAppends = make(chan struct{}), make(chan struct{})
	g.OnOp(func(k int, _ string) {
		name, kind, _, n := g.Op(k)
		if name != "journal" || kind != "write" {
			return
		}
		count, let := &m.appends, m.letAppends
		if n >= bulkOfTest/2 {
			count, let = &m.bulk, m.letBulk
			m.mu.Lock()
			m.sizes = append(m.sizes, n)
			m.mu.Unlock()
		}
		count.Add(1)
		<-let
		count.Add(-1)
	})
}

// begin writes p at off, as another client would.
func (m *medium) begin(t *testing.T, d *Disk, p []byte, off int64) {
	m.over.Go(func() {
		if _, err := d.WriteAt(p, off); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

// let lets n stalled writes go on, as far as they come.
func (m *medium) let(through chan struct{}, n int) {
	for range n {
		through <- struct{}{}
	}
	synctest.Wait()
}

func (m *medium) expect(t *testing.T, when string, bulk, appends int64) {
	t.Helper()
	if b, a := m.bulk.Load(), m.appends.Load(); b != bulk || a != appends {
		t.Fatalf("%s: %d bulk writes and %d appends are on their way, want %d and %d", when, b, a, bulk, appends)
	}
}

// toSpare is a disk whose first 5 MiB go to spare past the page cache when they are overwritten, in pieces
// of bulkOfTest from at(0) on; at(16) begins half of one that goes to spare and half of one that goes home.
func toSpare(t *testing.T) (*Disk, *crashdisk.Group, layout) {
	t.Helper()
	l := layout{name: "groups", disk: 16 << 20, journal: logStart + 4<<20, mode: jsuper.Auto}
	d, g := opened(t, l, Options{})
	for i := range int64(10) {
		write(t, d, pattern(1, bulkOfTest), at(i))
	}
	write(t, d, pattern(8, bulkOfTest/2), at(16)) // the home behind it stays empty
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for i := int64(4); !d.WritesDirect(); i++ { // the first slots are written through the page cache
		write(t, d, pattern(2, bulkOfTest), at(i))
	}
	return d, g, l
}

func at(i int64) int64 { return i * bulkOfTest }

// TestBulkGoesInGroups: bulk for spare that comes while other bulk is written waits until that is in the
// log, and then goes in one write, and one append. What the checkpointer may have to wait for does not
// wait for a turn: else each would wait for the other.
func TestBulkGoesInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g, l := toSpare(t)
		var m medium
		m.stall(g)
		m.begin(t, d, pattern(3, bulkOfTest), at(0))
		m.expect(t, "the first has come", 1, 0)
		m.begin(t, d, pattern(4, bulkOfTest), at(1))
		m.begin(t, d, pattern(5, bulkOfTest), at(2))
		m.expect(t, "two more have come", 1, 0)
		m.let(m.letBulk, 1)
		m.expect(t, "the first is written", 0, 1)
		m.begin(t, d, pattern(6, bulkOfTest), at(16))
		m.expect(t, "one has come that goes to spare and home", 1, 1)
		m.let(m.letBulk, 1)
		m.let(m.letAppends, 1)
		m.expect(t, "the first is in the log", 1, 1) // and the one that took no turn is on its way there
		m.begin(t, d, pattern(7, bulkOfTest), at(3))
		m.let(m.letAppends, 1)
		m.let(m.letBulk, 1)
		m.expect(t, "two are written", 0, 1)
		m.let(m.letAppends, 1)
		m.expect(t, "both are in the log", 1, 0)
		m.let(m.letBulk, 1)
		m.let(m.letAppends, 1)
		m.over.Wait()
		g.OnOp(nil)
		want := []int64{bulkOfTest, bulkOfTest / 2, 2 * bulkOfTest, bulkOfTest}
		if !slices.Equal(m.sizes, want) {
			t.Errorf("bulk went out in writes of %d bytes, want %d", m.sizes, want)
		}
		for i, seed := range []uint64{3, 4, 5, 7} {
			expect(t, d, at(int64(i)), pattern(seed, bulkOfTest))
		}
		expect(t, d, at(16), pattern(6, bulkOfTest))
		closed(t, d, l, g)
	})
}

// TestGroupIsWrittenInPlace: of a group's data one write is what lies side by side in the spare area, in
// whichever order its requests came, and all of it is where it belongs.
func TestGroupIsWrittenInPlace(t *testing.T) {
	d, g, l := toSpare(t)
	const n = 64 << 10
	far := int64(12 << 20) // slots that nobody uses
	var group gatherer
	for i, offs := range [][]int64{{far + 3*n, far}, {far + n}, {far + 9*n}, {far + 4*n, far + 5*n}} {
		p := d.newPending()
		for k, off := range offs {
			p.pieces = append(p.pieces, piece{of: p, p: pattern(uint64(10*i+k), n), off: off})
		}
		group.group = append(group.group, p)
	}
	from := g.Ops()
	d.writeGroup(&group)
	var got [][2]int64
	for k := from + 1; k <= g.Ops(); k++ {
		_, _, off, bytes := g.Op(k)
		got = append(got, [2]int64{(off - d.opened.SpareOffset - far) / n, bytes / n})
	}
	if want := [][2]int64{{0, 2}, {3, 3}, {9, 1}}; !slices.Equal(got, want) {
		t.Errorf("written are [place, length] %v, want %v", got, want)
	}
	for _, p := range group.group {
		if p.unwritten != nil {
			t.Error(p.unwritten)
		}
		for _, piece := range p.pieces {
			there := make([]byte, n)
			if _, err := d.once.slots.dev.ReadAt(there, piece.off); err != nil || !bytes.Equal(there, piece.p) {
				t.Errorf("the piece at %d is not there (%v)", piece.off-far, err)
			}
		}
		d.release(p)
	}
	closed(t, d, l, g)
}

// TestGroupThatIsNotWritten: a group that the host has no space for goes through the log, all of it; one that
// the medium fails for ends the disk, and each of its writers is told.
func TestGroupThatIsNotWritten(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		synctest.Test(t, func(t *testing.T) {
			d, g, l := toSpare(t)
			before := d.Stats().LoggedBytes
			first := make(chan struct{})
			groups := 0
			g.OnOp(func(k int, _ string) {
				switch _, _, _, n := g.Op(k); n {
				case bulkOfTest:
					<-first
				case 2 * bulkOfTest:
					groups++
					g.FailAt(k, cause)
				}
			})
			var errs [3]error
			var over sync.WaitGroup
			for i := range errs {
				over.Go(func() { _, errs[i] = d.WriteAt(pattern(uint64(3+i), bulkOfTest), at(int64(i))) })
				synctest.Wait()
			}
			close(first)
			over.Wait()
			g.OnOp(nil)
			if groups != 1 || errs[0] != nil {
				t.Fatalf("%v: %d groups of two, the first write ends with %v", cause, groups, errs[0])
			}
			if cause == syscall.EIO {
				for _, err := range errs[1:] {
					if !errors.Is(err, ErrPoisoned) || !errors.Is(err, cause) {
						t.Errorf("a write of a group that failed with EIO answers %v", err)
					}
				}
				if err := d.Close(t.Context()); !errors.Is(err, ErrPoisoned) {
					t.Errorf("close answers %v", err)
				}
				return
			}
			for i, err := range errs {
				if err != nil {
					t.Errorf("write %d, host full: %v", i, err)
				}
				expect(t, d, at(int64(i)), pattern(uint64(3+i), bulkOfTest))
			}
			if logged := d.Stats().LoggedBytes - before; logged < 2*bulkOfTest {
				t.Errorf("%d bytes are in the log, want those of the two that found no space", logged)
			}
			closed(t, d, l, g)
		})
	}
}
