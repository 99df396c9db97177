package crashdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// An operation, from the call to its effect:
//
//  1. It gets its number (begin). Is it the one of CrashAt, the power goes.
//  2. The OnOp hook runs, without a lock; it may stall the operation as long as it likes.
//  3. The effect: a write shows in reads and is unflushed; a flush makes durable what had
//     returned when it got its number; or the injected failure happens.
//
// An operation that is stalled when the power goes is in flight for ever: it returns
// ErrCrashed and changes nothing any more, but images may hold a part of its write.

// ErrCrashed is returned by every call on a disk whose group has lost power.
var ErrCrashed = errors.New("simulated power loss")

// FlushFault says what a failed Flush does to reads of the bytes it didn't make durable.
type FlushFault int

const (
	// KeepPages leaves the pages in the cache, marked clean (ext4, XFS).
	KeepPages FlushFault = iota
	// EvictPages drops them: reads see what the medium holds.
	EvictPages
)

// Group is some disks with one power supply and one counter of operations. All methods may
// be called at the same time, also with those of its disks.
type Group struct {
	seed int64

	mu         sync.Mutex
	disks      []*Disk                       // guarded by mu; in the order of their making
	ops        []op                          // guarded by mu; ops[k-1] is operation k
	reads      int                           // guarded by mu
	crashAt    int                           // guarded by mu; 0: never
	crashed    bool                          // guarded by mu
	failOps    map[int]error                 // guarded by mu
	failReads  map[int]error                 // guarded by mu
	failed     bool                          // guarded by mu; an injected error was returned
	flushFault FlushFault                    // guarded by mu
	onOp       func(k int, operation string) // guarded by mu
}

// op is what happened as one operation.
type op struct {
	disk   *Disk
	kind   string
	off, n int64
}

func (o op) String() string {
	if o.kind == "flush" {
		return "flush " + o.disk.name
	}
	return fmt.Sprintf("%s %s [%#x,+%d)", o.kind, o.disk.name, o.off, o.n)
}

// NewGroup returns a group without disks. seed decides what failing operations leave behind;
// images have seeds of their own.
func NewGroup(seed int64) *Group {
	return &Group{seed: seed, failOps: map[int]error{}, failReads: map[int]error{}}
}

// Disk is the group's disk of that name. There being none, it is made, of size bytes, all of
// them durable zeros. To ask for an existing disk with another size is a mistake in the test
// and panics.
func (g *Group) Disk(name string, size int64) *Disk {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.disks {
		if d.name == name {
			if d.size != size {
				panic(fmt.Sprintf("crashdisk: disk %q has %d bytes, not %d", name, d.size, size))
			}
			return d
		}
	}
	d := &Disk{group: g, name: name, size: size, live: newStore(size), medium: newStore(size)}
	g.disks = append(g.disks, d)
	return d
}

// Lookup is the group's disk of that name, or nil.
func (g *Group) Lookup(name string) *Disk {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.disks {
		if d.name == name {
			return d
		}
	}
	return nil
}

// CrashAt makes the power go at operation k, counted from the group's making; 0 takes that
// back. Operation k may leave what a write in flight leaves; a flush leaves nothing. A k that
// is past crashes at the next operation.
func (g *Group) CrashAt(k int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.crashAt = k
}

// Crash makes the power go now.
func (g *Group) Crash() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.crashed = true
}

// Crashed reports whether the power has gone.
func (g *Group) Crashed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.crashed
}

// FailAt makes operation k fail with an error that wraps err. It may be called for several.
func (g *Group) FailAt(k int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failOps[k] = err
}

// FailReadAt makes the n-th read (ReadAt or ReadDirectAt, from 1) fail with an error that
// wraps err.
func (g *Group) FailReadAt(n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failReads[n] = err
}

// SetFlushFault chooses what failing flushes do to reads; at first it is KeepPages.
func (g *Group) SetFlushFault(fault FlushFault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushFault = fault
}

// Failed reports whether an injected failure has happened: then somebody must have said so.
func (g *Group) Failed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// Ops is the number of operations so far. It stands still after the crash.
func (g *Group) Ops() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.ops)
}

// Reads is the number of ReadAt and ReadDirectAt calls so far.
func (g *Group) Reads() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reads
}

// OpInfo says what operation k was, for messages: "write journal [0x1000,+4096)".
func (g *Group) OpInfo(k int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k < 1 || k > len(g.ops) {
		return fmt.Sprintf("no operation %d", k)
	}
	return g.ops[k-1].String()
}

// Op says the same in parts: the disk's name, the kind (write, zero, flush) and the range. There
// must have been an operation k.
func (g *Group) Op(k int) (disk, kind string, off, n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.ops[k-1]
	return o.disk.name, o.kind, o.off, o.n
}

// OnOp sets a function that every operation calls between getting its number and having its
// effect, without a lock, from the goroutine that performs it. nil takes it away.
func (g *Group) OnOp(hook func(k int, operation string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onOp = hook
}

// begin gives an operation its number. mark runs under the lock, before the power can
// go. On a nil error g.mu is held and the caller brings about the effect; inject is
// the failure that it then has to have.
func (g *Group) begin(o op, mark func()) (k int, inject, err error) {
	g.mu.Lock()
	if g.crashed {
		g.mu.Unlock()
		return 0, nil, ErrCrashed
	}
	g.ops = append(g.ops, o)
	k = len(g.ops)
	mark()
	if g.crashAt > 0 && k >= g.crashAt {
		g.crashed = true
		g.mu.Unlock()
		return k, nil, ErrCrashed
	}
	if hook := g.onOp; hook != nil {
		g.mu.Unlock()
		hook(k, o.String())
		g.mu.Lock()
		if g.crashed {
			g.mu.Unlock()
			return k, nil, ErrCrashed
		}
	}
	if cause := g.failOps[k]; cause != nil {
		g.failed = true
		inject = fmt.Errorf("%s: injected failure of operation %d: %w", o, k, cause)
	}
	if inject == nil {
		inject = o.disk.refuseLocked(o)
	}
	return k, inject, nil
}

// random is the source of all that operation k leaves to chance.
func (g *Group) random(k int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(g.seed), uint64(k)))
}
