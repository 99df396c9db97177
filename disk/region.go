package disk

import "fmt"

// region is [base, base+size) of a device. It has every capability; one that the parent
// lacks is made up for by the functions of capability.go.
type region struct {
	parent Device
	base   int64
	size   int64
}

var (
	_ VectorWriter = (*region)(nil)
	_ Zeroer       = (*region)(nil)
	_ CachedReader = (*region)(nil)
	_ DirectReader = (*region)(nil)
	_ DirectWriter = (*region)(nil)
	_ Extenter     = (*region)(nil)
	_ Discarder    = (*region)(nil)
	_ Allocator    = (*region)(nil)
	_ WriteBacker  = (*region)(nil)
)

// Region is [off, off+n) of dev as a device of its own, whose offset 0 is off. It passes on
// each capability of dev. Flush flushes the whole of dev. Nothing outside the region can be
// read or written through it. The region must lie in dev: sizes that come from a disk or a
// user are the caller's to check (CheckRange) first, and Region panics on a bad one.
func Region(dev Device, off, n int64) Device {
	if err := CheckRange(off, n, dev.Size()); err != nil {
		panic(fmt.Sprintf("disk: region: %v", err))
	}
	if r, ok := dev.(*region); ok {
		return &region{parent: r.parent, base: r.base + off, size: n}
	}
	return &region{parent: dev, base: off, size: n}
}

// check keeps the operation on n bytes at off, both the region's, inside it.
func (r *region) check(op string, off, n int64) error {
	if err := CheckRange(off, n, r.size); err != nil {
		return fmt.Errorf("%s region at %d: %w", op, r.base, err)
	}
	return nil
}

func (r *region) ReadAt(p []byte, off int64) (int, error) {
	if err := r.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	return r.parent.ReadAt(p, r.base+off)
}

func (r *region) WriteAt(p []byte, off int64) (int, error) {
	if err := r.check("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	return r.parent.WriteAt(p, r.base+off)
}

func (r *region) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	if err := r.check("write", off, total(bufs)); err != nil {
		return 0, err
	}
	if v, ok := r.parent.(VectorWriter); ok {
		return v.WriteVAt(bufs, r.base+off)
	}
	return writeEach(r.parent, bufs, r.base+off)
}

func (r *region) Flush() error { return r.parent.Flush() }

func (r *region) Size() int64 { return r.size }

func (r *region) Zero(off, n int64, punch bool) error {
	if err := r.check("zero", off, n); err != nil {
		return err
	}
	return Zero(r.parent, r.base+off, n, punch)
}

func (r *region) ReadCachedAt(p []byte, off int64) error {
	if err := r.check("read", off, int64(len(p))); err != nil {
		return err
	}
	return ReadCached(r.parent, p, r.base+off)
}

func (r *region) ReadDirectAt(p []byte, off int64) (int, error) {
	if err := r.check("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	return ReadDirect(r.parent, p, r.base+off)
}

func (r *region) WriteDirectVAt(bufs [][]byte, off int64) (int64, error) {
	n := total(bufs)
	if err := r.check("write", off, n); err != nil {
		return 0, err
	}
	if err := WriteDirect(r.parent, bufs, r.base+off); err != nil {
		return 0, err
	}
	return n, nil
}

func (r *region) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	if err := r.check("extents of", off, n); err != nil {
		return err
	}
	return Extents(r.parent, r.base+off, n, func(off, n int64, hole bool) bool {
		return visit(off-r.base, n, hole)
	})
}

func (r *region) Discard(off, n int64) error {
	if err := r.check("discard", off, n); err != nil {
		return err
	}
	return Discard(r.parent, r.base+off, n)
}

func (r *region) Allocate(off, n int64) error {
	if err := r.check("allocate", off, n); err != nil {
		return err
	}
	return Allocate(r.parent, r.base+off, n)
}

func (r *region) WriteBack(off, n int64) {
	if r.check("write back", off, n) == nil {
		WriteBack(r.parent, r.base+off, n)
	}
}
