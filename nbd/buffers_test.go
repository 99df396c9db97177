package nbd

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"unsafe"
)

func TestBufferClasses(t *testing.T) {
	for _, tt := range []struct{ n, want int }{
		{1, 16 << 10},
		{16 << 10, 16 << 10},
		{16<<10 + 1, 32 << 10},
		{1 << 20, 1 << 20},
		{1<<20 + 1, 2 << 20},
		{32 << 20, 32 << 20},
		{maxMaxBlock, 1 << 30},
	} {
		if got := classBytes(classOf(tt.n)); got != int64(tt.want) {
			t.Errorf("a buffer for %d bytes has %d, want %d", tt.n, got, tt.want)
		}
	}
}

// Never more than the limit is mapped, buffers don't overlap, and everybody gets one.
func TestPoolIsBounded(t *testing.T) {
	p := &pool{limit: 1 << 20}
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			for range 300 {
				b, ok := p.get(1+random.IntN(1<<20), nil)
				if !ok {
					t.Error("a wait without cancel was cancelled")
					return
				}
				if uintptr(unsafe.Pointer(&b.mem[0]))%4096 != 0 {
					t.Error("a buffer does not start on a page")
				}
				b.mem[0], b.mem[len(b.mem)-1] = byte(seed), byte(seed)
				p.mu.Lock()
				if p.lent+p.idle > p.limit || p.lent < 0 || p.idle < 0 {
					t.Errorf("%d bytes are lent and %d idle, the limit is %d", p.lent, p.idle, p.limit)
				}
				p.mu.Unlock()
				if b.mem[0] != byte(seed) || b.mem[len(b.mem)-1] != byte(seed) {
					t.Error("two have the same buffer")
				}
				b.free()
			}
		})
	}
	wg.Wait()
	p.shrink()
	if p.lent != 0 || p.idle != 0 || len(p.line) != 0 {
		t.Errorf("at the end %d bytes are lent, %d idle, %d wait", p.lent, p.idle, len(p.line))
	}
}

// Who holds something already gets more only while enough stays free for others, and never
// while they wait.
func TestTakeBeside(t *testing.T) {
	const kib = 1 << 10
	for _, tt := range []struct {
		name       string
		lent, held int // before; held is part of lent
		waits      bool
		want       bool
	}{
		{"plenty", 16 * kib, 16 * kib, false, true},
		{"twice what it then holds stays free", 176 * kib, 16 * kib, false, true},
		{"less would stay free", 192 * kib, 16 * kib, false, false},
		{"somebody waits", 16 * kib, 16 * kib, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &pool{limit: 256 * kib, lent: int64(tt.lent)}
			if tt.waits {
				p.line = append(p.line, &waiter{class: classOf(256 * kib)})
			}
			b := p.takeBeside(16*kib, int64(tt.held+16*kib))
			if got := b != nil; got != tt.want {
				t.Errorf("lent: %v, want %v", got, tt.want)
			}
			if b != nil {
				unmapPages(b.mem)
			}
		})
	}
}

// Who waits is served in order, and who gives up does not hold up the line.
func TestPoolLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{limit: 64 << 10, starved: func() {}}
		held, _ := p.get(32<<10, nil)
		cancel := make(chan struct{})
		got := make(chan string, 3)
		ask := func(name string, n int, cancel chan struct{}) {
			go func() {
				b, ok := p.get(n, cancel)
				if !ok {
					name += " gave up"
				} else {
					defer b.free()
				}
				got <- name
			}()
			synctest.Wait()
		}
		ask("large", 64<<10, cancel)
		ask("small", 16<<10, nil) // would fit, but must not pass
		select {
		case name := <-got:
			t.Fatalf("%s did not wait", name)
		default:
		}
		close(cancel)
		synctest.Wait()
		if a, b := <-got, <-got; a+b != "large gave upsmall" && a+b != "smalllarge gave up" {
			t.Errorf("got %q and %q", a, b)
		}
		held.free()
		if p.lent != 0 {
			t.Errorf("%d bytes are still lent", p.lent)
		}
		p.shrink()
	})
}

// Large buffers lie on huge pages, those of 1 MiB in pairs, and the pool's limit holds for what
// is mapped besides.
func TestHugeBuffers(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		limit int64
		sizes []int
	}{
		{16 * mib, []int{mib, mib, mib, 2 * mib, 4 * mib, mib}},
		{3 * mib, []int{mib, mib, mib}},
		{mib, []int{mib}}, // no room for the other half
		{32 * mib, []int{32 * mib}},
	} {
		p := &pool{limit: tt.limit, starved: func() {}}
		var all []*buffer
		used := map[uintptr]bool{}
		for _, n := range tt.sizes {
			b, ok := p.get(n, nil)
			if !ok || len(b.mem) != n {
				t.Fatalf("limit %d: no buffer of %d bytes", tt.limit, n)
			}
			all = append(all, b)
			start := uintptr(unsafe.Pointer(&b.mem[0]))
			if n >= hugeBytes && start%hugeBytes != 0 {
				t.Errorf("a buffer of %d bytes at %#x, want it on a huge page", n, start)
			}
			for i := range uintptr(n / mib) {
				if used[start+i*mib] {
					t.Errorf("the MiB at %#x is lent twice", start+i*mib)
				}
				used[start+i*mib] = true
			}
			for i := range b.mem {
				b.mem[i] = 1 // all of it is there
			}
			if p.lent+p.idle > p.limit {
				t.Errorf("%d bytes lent and %d idle, the limit is %d", p.lent, p.idle, p.limit)
			}
		}
		for _, b := range all {
			b.free()
		}
		p.shrink()
		if p.lent != 0 || p.idle != 0 {
			t.Errorf("limit %d: %d bytes lent and %d idle at the end", tt.limit, p.lent, p.idle)
		}
	}
}

// A buffer that the medium took bytes from is lent again when so many others of its class rest, or when
// there is no room for another. Others are lent before it, the one used last first.
func TestUsedBuffersRest(t *testing.T) {
	const mib = 1 << 20
	take := func(p *pool) *buffer {
		t.Helper()
		b, ok := p.get(mib, nil)
		if !ok || p.lent+p.idle > p.limit {
			t.Fatalf("%d bytes lent and %d idle, the limit is %d", p.lent, p.idle, p.limit)
		}
		return b
	}
	for _, tt := range []struct{ limit, rest int }{{16 * mib, restBytes / mib}, {4 * mib, 4}} {
		p := &pool{limit: int64(tt.limit), starved: func() {}}
		var rested []*buffer
		for range tt.rest {
			b := take(p)
			for i, other := range rested {
				if b == other {
					t.Errorf("limit %d: with %d resting, no. %d is lent again", tt.limit, len(rested), i)
				}
			}
			b.rest()
			rested = append(rested, b)
		}
		for i := range 2 * tt.rest { // the oldest first
			b := take(p)
			if b != rested[i%tt.rest] {
				t.Errorf("limit %d: buffer no. %d is another than what rests longest", tt.limit, i)
			}
			b.rest()
		}
		a, b := take(p), take(p)
		a.free()
		b.free()
		if hot := take(p); hot != b {
			t.Errorf("limit %d: not the buffer that was used last", tt.limit)
		} else if next := take(p); next != a {
			t.Errorf("limit %d: not the other that does not rest", tt.limit)
		} else {
			next.rest()
			hot.free()
		}
		p.shrink()
		if p.lent != 0 || p.idle != 0 || p.resting != (&pool{}).resting {
			t.Errorf("limit %d: at the end %d bytes are lent, %d idle, resting %v", tt.limit, p.lent, p.idle, p.resting)
		}
	}
}

// Two buffers of 1 MiB that follow each other are halves of one huge page.
func TestBuffersShareAHugePage(t *testing.T) {
	p := &pool{limit: 16 << 20, starved: func() {}}
	a, _ := p.get(1<<20, nil)
	b, _ := p.get(1<<20, nil)
	first, second := uintptr(unsafe.Pointer(&a.mem[0])), uintptr(unsafe.Pointer(&b.mem[0]))
	if first%hugeBytes != 0 || second != first+1<<20 {
		t.Errorf("buffers at %#x and %#x", first, second)
	}
	a.free()
	b.free()
	p.shrink()
}

// The pools stay within the bound together, and leave room for a request of the largest size; bulk gets more
// where there is enough.
func TestPoolLimits(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		total   int
		largest int
		want    [poolCount]int64
	}{
		{0, 32 * mib, [...]int64{16 * mib, 16 * mib, 32 * mib}}, // the least
		{64 * mib, 32 * mib, [...]int64{16 * mib, 16 * mib, 32 * mib}},
		{79 * mib, 32 * mib, [...]int64{16 * mib, 16 * mib, 47 * mib}},
		{80 * mib, 32 * mib, [...]int64{16 * mib, 32 * mib, 32 * mib}},
		{80 * mib, 33 * mib, [...]int64{16 * mib, 16 * mib, 64 * mib}}, // of the class above
		{320 * mib, 32 * mib, [...]int64{16 * mib, 32 * mib, 272 * mib}},
	} {
		var b buffers
		b.init(int64(tt.total), tt.largest, nil)
		var got [poolCount]int64
		for i := range b {
			got[i] = b[i].limit
		}
		if got != tt.want {
			t.Errorf("%d MiB, requests up to %d MiB: limits %v, want %v", tt.total/mib, tt.largest/mib, got, tt.want)
		}
	}
}
