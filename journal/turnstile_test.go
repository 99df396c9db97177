package journal

import (
	"sync"
	"sync/atomic"
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

// TestBulkGoesInGroups: bulk for spare that comes while other bulk is written waits until that is in the
// log, and then goes all at once. What the checkpointer may have to wait for does not wait for a turn: else
// each would wait for the other.
func TestBulkGoesInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := layout{name: "groups", disk: 16 << 20, journal: logStart + 4<<20, mode: jsuper.Auto}
		d, g := opened(t, l, Options{})
		at := func(i int64) int64 { return i * bulkOfTest }
		for i := range int64(10) {
			write(t, d, pattern(1, bulkOfTest), at(i))
		}
		write(t, d, pattern(8, bulkOfTest/2), 8<<20) // the home behind it stays empty
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		for i := int64(4); !d.WritesDirect(); i++ { // the first slots are written through the page cache
			write(t, d, pattern(2, bulkOfTest), at(i))
		}
		var m medium
		m.stall(g)
		m.begin(t, d, pattern(3, bulkOfTest), at(0))
		m.expect(t, "the first has come", 1, 0)
		m.begin(t, d, pattern(4, bulkOfTest), at(1))
		m.begin(t, d, pattern(5, bulkOfTest), at(2))
		m.expect(t, "two more have come", 1, 0)
		m.let(m.letBulk, 1)
		m.expect(t, "the first is written", 0, 1)
		m.begin(t, d, pattern(6, bulkOfTest), 8<<20)
		m.expect(t, "one has come that goes to spare and home", 1, 1)
		m.let(m.letBulk, 1)
		m.let(m.letAppends, 1)
		m.expect(t, "the first is in the log", 2, 1) // and the one that took no turn is on its way there
		m.begin(t, d, pattern(7, bulkOfTest), at(3))
		m.let(m.letAppends, 1)
		m.let(m.letBulk, 1)
		m.expect(t, "one of two is written", 1, 1)
		m.let(m.letBulk, 1)
		m.let(m.letAppends, 2)
		m.expect(t, "both are in the log", 1, 0)
		m.let(m.letBulk, 1)
		m.let(m.letAppends, 1)
		m.over.Wait()
		g.OnOp(nil)
		for i, seed := range []uint64{3, 4, 5, 7} {
			expect(t, d, at(int64(i)), pattern(seed, bulkOfTest))
		}
		expect(t, d, 8<<20, pattern(6, bulkOfTest))
		closed(t, d, l, g)
	})
}
