package nbd

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers for payloads and replies come from three pools, which bound them together (P11):
//
//   - A buffer has a size class, a power of two, and starts on a page. From 1 MiB on it lies
//     on huge pages; two of 1 MiB share one.
//   - Small, large and huge requests have a pool each, so that a few clients with larger
//     requests can't make all others wait.
//   - What is lent out plus what lies idle never exceeds a pool's limit. Before it maps new
//     memory it gives idle buffers of other classes back to the kernel.
//   - Of a class the buffer that was used last is lent first, because the processor may still have it,
//     but for one that the medium has fetched bytes from: it rests (rest).
//   - Who finds no room waits in line, first come first served, so that a large request
//     is not passed for ever by smaller ones. While somebody waits, connections whose
//     client holds memory and does nothing for its return are closed (stalled.go).
//   - A connection may hold one buffer of a pool; more, up to a quarter of the pool, only
//     while nobody waits and twice as much stays free as it holds then (flight.go). So
//     four connections that take 1 MiB buffers as fast as they can leave a quarter of them to
//     others. Where connections with one buffer each fill a pool, time decides.
//
// The memory is mapped, not the garbage collector's: the bound is then exact at any
// moment, and the collector's pace does not depend on how much clients have in flight.

const (
	minBufferShift = 14 // 16 KiB, the smallest class
	maxBufferShift = 30 // 1 GiB, the largest: maxMaxBlock
)

// The pools. The last one takes every size, and what the others leave of the bound. The second is twice as
// large where that leaves the last one room for a request of the largest size.
var (
	poolLargest = [...]int{256 << 10, 4 << 20, 1 << maxBufferShift} // largest request
	poolLimit   = [...]int64{16 << 20, 16 << 20, 0}                 // bytes
)

const poolCount = len(poolLargest)

// buffers are a server's pools.
type buffers [poolCount]pool

// init gives the pools their limits. total is what all may hold, 0 for the least that
// lets a request of largest bytes in; starved is called with the pool's index again and
// again while somebody waits.
func (b *buffers) init(total int64, largest int, starved func(pool int)) {
	for i := range b {
		b[i].starved = func() { starved(i) }
		b[i].limit = poolLimit[i]
		total -= poolLimit[i]
	}
	least := classBytes(classOf(largest))
	if more := poolLimit[1]; total-more >= least {
		b[1].limit += more
		total -= more
	}
	b[poolCount-1].limit = max(total, least)
}

// indexFor is the index of the pool for a request of n bytes.
func (b *buffers) indexFor(n int) int {
	i := 0
	for n > poolLargest[i] {
		i++
	}
	return i
}

// poolFor is the pool for a request of n bytes.
func (b *buffers) poolFor(n int) *pool { return &b[b.indexFor(n)] }

// held is the number of bytes that are lent out.
func (b *buffers) held() int64 {
	n := int64(0)
	for i := range b {
		n += b[i].held()
	}
	return n
}

// shrink gives all idle buffers back to the kernel.
func (b *buffers) shrink() {
	for i := range b {
		b[i].shrink()
	}
}

// buffer is memory on loan from a pool.
type buffer struct {
	mem   []byte // the whole class
	class int    // index of the pool's idle list
	home  *pool
}

// pool lends buffers.
type pool struct {
	limit   int64
	starved func() // called every starvedTick while somebody waits

	mu    sync.Mutex
	lent  int64 // bytes that are lent out
	idle  int64 // bytes in the lists
	lists [maxBufferShift - minBufferShift + 1][]*buffer
	// resting is how many at the front of each list rest, the one that began first in front.
	resting [maxBufferShift - minBufferShift + 1]int
	line    []*waiter // who waits, in order of arrival
}

// restBytes is how much of a class rests before one of it is lent again, while there is room for others.
const restBytes = 8 << 20

// waiter is a request for a buffer that did not fit.
type waiter struct {
	class int
	got   chan *buffer // capacity 1
}

// classOf is the smallest class that holds n bytes.
func classOf(n int) int {
	return max(bits.Len(uint(n-1)), minBufferShift) - minBufferShift
}

// classBytes is the size of a class's buffers.
func classBytes(class int) int64 { return 1 << (class + minBufferShift) }

// get lends a buffer of at least n bytes, with unknown content. It waits for room until
// cancel is closed and reports false then. n must not exceed the limit.
func (p *pool) get(n int, cancel <-chan struct{}) (*buffer, bool) {
	class := classOf(n)
	p.mu.Lock()
	if len(p.line) == 0 && p.lent+classBytes(class) <= p.limit {
		b := p.takeLocked(class)
		p.mu.Unlock()
		return b, true
	}
	w := &waiter{class: class, got: make(chan *buffer, 1)}
	p.line = append(p.line, w)
	p.mu.Unlock()

	if b := w.wait(cancel, p.starved); b != nil {
		return b, true
	}
	p.mu.Lock()
	if i := slices.Index(p.line, w); i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
		p.grantLocked() // w may have been what held the line up
		p.mu.Unlock()
		return nil, false
	}
	p.mu.Unlock()
	(<-w.got).free()
	return nil, false
}

// takeBeside lends a buffer of at least n bytes to somebody who then holds held
// bytes of the pool, or returns nil: when others wait, or less than twice held would stay
// free.
func (p *pool) takeBeside(n int, held int64) *buffer {
	class := classOf(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) > 0 || p.lent+classBytes(class)+2*held > p.limit {
		return nil
	}
	return p.takeLocked(class)
}

// wait returns the buffer, or nil when cancel is closed first.
func (w *waiter) wait(cancel <-chan struct{}, starved func()) *buffer {
	ticker := time.NewTicker(starvedTick)
	defer ticker.Stop()
	for {
		select {
		case b := <-w.got:
			return b
		case <-cancel:
			return nil
		case <-ticker.C:
			starved()
		}
	}
}

// free gives b back to its pool.
func (b *buffer) free() {
	b.home.mu.Lock()
	b.home.takeBackLocked(b, len(b.home.lists[b.class]))
	b.home.mu.Unlock()
}

// rest is free for a buffer that the medium has taken bytes from by itself. What did so, often another
// processor that plays the device of a virtual machine, has them in its cache by now; to receive into them again
// at once costs more than into a buffer that nobody has used for a while (decision 28).
func (b *buffer) rest() {
	p := b.home
	p.mu.Lock()
	p.resting[b.class]++
	p.takeBackLocked(b, p.resting[b.class]-1)
	p.mu.Unlock()
}

// takeBackLocked makes b idle, at a place of its list.
func (p *pool) takeBackLocked(b *buffer, at int) {
	p.lent -= classBytes(b.class)
	p.idle += classBytes(b.class)
	p.lists[b.class] = slices.Insert(p.lists[b.class], at, b)
	p.grantLocked()
}

// grantLocked serves the line from its front.
func (p *pool) grantLocked() {
	for len(p.line) > 0 && p.lent+classBytes(p.line[0].class) <= p.limit {
		w := p.line[0]
		p.line = slices.Delete(p.line, 0, 1)
		w.got <- p.takeLocked(w.class)
	}
}

// takeLocked lends a buffer; there is room for it.
func (p *pool) takeLocked(class int) *buffer {
	p.lent += classBytes(class)
	if b := p.takeIdleLocked(class); b != nil {
		p.idle -= classBytes(class)
		return b
	}
	p.shrinkLocked(p.limit - p.lent)
	n := classBytes(class)
	if 2*n == hugeBytes && p.lent+p.idle+n <= p.limit {
		mem := mapPages(hugeBytes)
		p.idle += n
		p.lists[class] = append(p.lists[class], &buffer{mem: mem[n:], class: class, home: p})
		return &buffer{mem: mem[:n:n], class: class, home: p}
	}
	return &buffer{mem: mapPages(int(n)), class: class, home: p}
}

// takeIdleLocked takes an idle buffer out of its list, or returns nil if there is none but such as
// should rest. The lent ones count the new one already.
func (p *pool) takeIdleLocked(class int) *buffer {
	list, resting := p.lists[class], p.resting[class]
	if len(list) > resting {
		b := list[len(list)-1]
		p.lists[class] = list[:len(list)-1]
		return b
	}
	if resting == 0 || int64(resting)*classBytes(class) < restBytes && p.lent+p.idle <= p.limit {
		return nil
	}
	b := list[0]
	p.lists[class] = slices.Delete(list, 0, 1)
	p.resting[class]--
	return b
}

// shrinkLocked gives idle buffers back to the kernel, largest first, until at most n
// bytes lie idle.
func (p *pool) shrinkLocked(n int64) {
	for class := len(p.lists) - 1; class >= 0; class-- {
		list := p.lists[class]
		for len(list) > 0 && p.idle > n {
			unmapPages(list[len(list)-1].mem)
			list = list[:len(list)-1]
			p.idle -= classBytes(class)
		}
		p.lists[class] = list
		p.resting[class] = min(p.resting[class], len(list))
	}
}

// shrink gives all idle buffers back to the kernel.
func (p *pool) shrink() {
	p.mu.Lock()
	p.shrinkLocked(0)
	p.mu.Unlock()
}

// held is the number of bytes that are lent out.
func (p *pool) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lent
}

// hugeBytes is the size of a huge page.
const hugeBytes = 2 << 20

// mapPages maps n bytes of zeroed memory that starts on a page; on a huge page, and made of huge
// ones where the host has them, if n is a whole number of those. Like make, it does not return
// when there is none.
//
// A device takes so many pieces of memory for one request, often 254, and a large buffer of
// single pages has more: what could be one request becomes two, the second of a few pages. With
// huge pages it is one piece (decision 21).
func mapPages(n int) []byte {
	if n%hugeBytes != 0 {
		return mapAt(n)
	}
	mem := mapAt(n + hugeBytes)
	skip := int(-uintptr(unsafe.Pointer(&mem[0])) % hugeBytes)
	if skip > 0 {
		unmapPages(mem[:skip])
	}
	unmapPages(mem[skip+n:])
	mem = mem[skip : skip+n : skip+n]
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // a host without huge pages does with others
	return mem
}

// mapAt is the system's mapping of n bytes.
func mapAt(n int) []byte {
	mem, err := unix.MmapPtr(-1, 0, nil, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("nbd: map a buffer of %d bytes: %v", n, err))
	}
	return unsafe.Slice((*byte)(mem), n)
}

// unmapPages gives memory of mapPages back, or whole pages of it.
func unmapPages(mem []byte) {
	if err := unix.MunmapPtr(unsafe.Pointer(&mem[0]), uintptr(len(mem))); err != nil {
		panic(fmt.Sprintf("nbd: unmap a buffer of %d bytes: %v", len(mem), err))
	}
}
