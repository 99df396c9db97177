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
