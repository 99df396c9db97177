package crashdisk

import (
	"fmt"
	"slices"
	"syscall"

	"jnbd/disk"
)

// Disk is one disk of a group. It implements disk.Device and every capability that matters
// to a crash. All methods may be called at the same time.
type Disk struct {
	group *Group
	name  string
	size  int64

	// All below is guarded by group.mu. Without failed flushes, live is medium with the
	// unflushed changes made in order.
	live      *store    // what reads see
	medium    *store    // what is durable
	unflushed []*change // returned, and not durable, in the order of their effect
	effects   int       // changes that ever took effect; unflushed are the last of them
	inFlight  []*change // called, and not returned
	uncached  bool
	refuse    int                     // so many writes yet of those that refused names
	refused   func(off, n int64) bool // where the host has no space
}

var (
	_ disk.VectorWriter = (*Disk)(nil)
	_ disk.Zeroer       = (*Disk)(nil)
	_ disk.CachedReader = (*Disk)(nil)
	_ disk.DirectReader = (*Disk)(nil)
	_ disk.Extenter     = (*Disk)(nil)
)

// Options are those of a disk that is alone in its group.
type Options struct {
	// Seed of the group.
	Seed int64
	// FlushFault of the group.
	FlushFault FlushFault
	// Uncached makes ReadCachedAt say ErrNotCached always.
	Uncached bool
}

// New returns a disk of size bytes in a group of its own.
func New(size int64, opt Options) *Disk {
	g := NewGroup(opt.Seed)
	g.SetFlushFault(opt.FlushFault)
	d := g.Disk("disk", size)
	d.SetUncached(opt.Uncached)
	return d
}

// Group is the disk's group.
func (d *Disk) Group() *Group { return d.group }

// Name is the disk's name in its group.
func (d *Disk) Name() string { return d.name }

// Size is the length in bytes. It is known after a crash, too.
func (d *Disk) Size() int64 { return d.size }

// SetUncached makes ReadCachedAt say ErrNotCached always, or takes that back.
func (d *Disk) SetUncached(uncached bool) {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	d.uncached = uncached
}

// Refuse makes the next count writes and zeroings that where names fail with ENOSPC, as on a host
// that is full: each leaves what a write that fails leaves. 0 takes that back.
func (d *Disk) Refuse(count int, where func(off, n int64) bool) {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	d.refuse, d.refused = count, where
}

// refuseLocked is the failure of a write that is refused, else nil.
func (d *Disk) refuseLocked(o op) error {
	if o.kind == "flush" || d.refuse == 0 || !d.refused(o.off, o.n) {
		return nil
	}
	d.refuse--
	return fmt.Errorf("%s: %w", o, syscall.ENOSPC)
}

// Snapshot is a copy of all that reads see, crashed or not. It is not a read.
func (d *Disk) Snapshot() []byte {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	return d.live.bytes(d.size)
}

// Medium is a copy of all that is durable, crashed or not. It is not a read.
func (d *Disk) Medium() []byte {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	return d.medium.bytes(d.size)
}

// bytes is the content as one buffer.
func (s *store) bytes(size int64) []byte {
	p := make([]byte, size)
	s.read(p, 0)
	return p
}

// check refuses a range that is not the disk's.
func (d *Disk) check(op string, off, n int64) error {
	if err := disk.CheckRange(off, n, d.size); err != nil {
		return fmt.Errorf("%s %s: %w", op, d.name, err)
	}
	return nil
}

// ReadAt fills p with the newest written bytes.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	return d.read(p, off, func() { d.live.read(p, off) })
}

// ReadDirectAt fills p with what the medium holds, once the kernel has written the dirty
// pages of the range to it, as O_DIRECT makes it do. That makes nothing durable.
func (d *Disk) ReadDirectAt(p []byte, off int64) (int, error) {
	return d.read(p, off, func() {
		d.medium.read(p, off)
		for _, c := range d.unflushed {
			c.overlay(p, off)
		}
	})
}

// read counts a read and performs it with fill, unless it is to fail.
func (d *Disk) read(p []byte, off int64, fill func()) (int, error) {
	if err := d.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	g := d.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.crashed {
		return 0, ErrCrashed
	}
	g.reads++
	if cause := g.failReads[g.reads]; cause != nil {
		g.failed = true
		return 0, fmt.Errorf("read %s [%#x,+%d): injected failure of read %d: %w", d.name, off, len(p), g.reads, cause)
	}
	fill()
	return len(p), nil
}

// ReadCachedAt is ReadAt, uncounted: all of it is in memory. See SetUncached.
func (d *Disk) ReadCachedAt(p []byte, off int64) error {
	if err := d.check("read", off, int64(len(p))); err != nil {
		return err
	}
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	if d.group.crashed {
		return ErrCrashed
	}
	if d.uncached {
		return disk.ErrNotCached
	}
	d.live.read(p, off)
	return nil
}

// WriteAt writes p at off: one operation.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.write("write", &change{off: off, n: int64(len(p)), data: append([]byte{}, p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteVAt writes the buffers one after the other from off on: one operation.
func (d *Disk) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	data := []byte{}
	for _, b := range bufs {
		data = append(data, b...)
	}
	if err := d.write("write", &change{off: off, n: int64(len(data)), data: data}); err != nil {
		return 0, err
	}
	return int64(len(data)), nil
}

// Zero makes [off, off+n) read as zeros: one operation. Whole pages of 4 KiB become holes
// with punch, and are allocated without.
func (d *Disk) Zero(off, n int64, punch bool) error {
	return d.write("zero", &change{off: off, n: n, punch: punch})
}

// write performs a change, which is the disk's from here on.
func (d *Disk) write(kind string, c *change) error {
	if err := d.check(kind, c.off, c.n); err != nil {
		return err
	}
	k, inject, err := d.group.begin(op{disk: d, kind: kind, off: c.off, n: c.n}, func() {
		d.inFlight = append(d.inFlight, c)
	})
	if err != nil {
		return err
	}
	defer d.group.mu.Unlock()
	d.inFlight = slices.DeleteFunc(d.inFlight, func(x *change) bool { return x == c })
	parts := []*change{c}
	if inject != nil {
		parts = c.remains(d.group.random(k))
	}
	for _, part := range parts {
		part.apply(d.live)
	}
	d.unflushed = append(d.unflushed, parts...)
	d.effects += len(parts)
	return inject
}

// Flush makes durable what had returned before it was called: one operation.
func (d *Disk) Flush() error {
	var covered int // changes that had taken effect when the flush was called
	k, inject, err := d.group.begin(op{disk: d, kind: "flush"}, func() { covered = d.effects })
	if err != nil {
		return err
	}
	defer d.group.mu.Unlock()
	// Another flush may have covered them meanwhile, or dropped them.
	n := max(0, covered-(d.effects-len(d.unflushed)))
	dirty := d.unflushed[:n]
	d.unflushed = slices.Clone(d.unflushed[n:])
	if inject == nil {
		for _, c := range dirty {
			c.apply(d.medium)
		}
		return nil
	}
	d.dropLocked(dirty, k)
	return inject
}

// dropLocked is what a failed flush, operation k, leaves of the changes it covered: half of
// the time nothing, else any of them but one, which the medium never gets.
func (d *Disk) dropLocked(dirty []*change, k int) {
	random := d.group.random(k)
	if len(dirty) > 0 && random.IntN(2) == 0 {
		bad := random.IntN(len(dirty))
		for i, c := range dirty {
			if i != bad && random.IntN(2) == 0 {
				c.apply(d.medium)
			}
		}
	}
	if d.group.flushFault == EvictPages {
		d.live = d.medium.clone()
		for _, c := range d.unflushed {
			c.apply(d.live)
		}
	}
}

// Extents visits holes and data as reads see them, in units of 4 KiB, as they were when it
// was called.
func (d *Disk) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	if err := d.check("extents of", off, n); err != nil {
		return err
	}
	d.group.mu.Lock()
	if d.group.crashed {
		d.group.mu.Unlock()
		return ErrCrashed
	}
	extents := d.live.extents(off, n)
	d.group.mu.Unlock()
	for _, e := range extents {
		if !visit(e.off, e.n, e.hole) {
			break
		}
	}
	return nil
}
