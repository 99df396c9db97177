package journal

import (
	"errors"
	"fmt"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
)

// Is the backing as this journal left it, and if not, and that is accepted, what is the disk then
// (decision 13)?

// checkBacking is step 3: P10's "disk changed behind our back", as far as samples tell.
// After Closed the backing was anyone's to write. A change that is accepted makes the disk
// what the backing holds; one that nothing shows is none.
func (d *Disk) checkBacking(accept bool) error {
	if d.super.State == jsuper.Closed {
		return nil
	}
	err := d.compareBacking()
	if !accept || (!errors.Is(err, ErrBackingChanged) && !errors.Is(err, ErrForeign)) {
		return err
	}
	d.accepted = true
	return d.adoptAbsent()
}

// compareBacking holds the backing against what the superblock says of it.
func (d *Disk) compareBacking() error {
	if err := d.checkIdentity(); err != nil {
		return err
	}
	err := d.super.Fingerprint.Compare(d.home, func(off, n int64) bool {
		return d.overlay.covers(off, off+n) || d.touched.covers(off, off+n) || !d.allHome(off, n)
	})
	if errors.Is(err, jsuper.ErrChanged) {
		return fmt.Errorf("%w: %w", ErrBackingChanged, err)
	}
	if err != nil {
		return err
	}
	if d.super.State == jsuper.Clean && d.super.Fingerprint.ModTimeNs != 0 {
		if now := modTime(d.backing); now != 0 && now != d.super.Fingerprint.ModTimeNs {
			return fmt.Errorf("%w: it was modified at %s, jnbd last wrote it at %s", ErrBackingChanged,
				time.Unix(0, now).UTC().Format(time.RFC3339Nano), time.Unix(0, d.super.Fingerprint.ModTimeNs).UTC().Format(time.RFC3339Nano))
		}
	}
	return nil
}

// checkIdentity refuses to bring one disk's blocks onto another. A journal that holds nothing
// can do no harm, so image and journal may be copied together after an orderly stop.
func (d *Disk) checkIdentity() error {
	extents, _ := d.overlay.size()
	if extents == 0 && (d.once == nil || d.once.state.Stats().Displaced == 0) {
		return nil
	}
	id, err := identity(d.backing)
	if known := d.super.BackingID; err == nil && id != known && id != ([16]byte{}) && known != ([16]byte{}) {
		return fmt.Errorf("%w: it holds blocks of another image file than this one, or the image was copied since", ErrForeign)
	}
	return err
}

// allHome reports whether the bases of [off, off+n) are at home. Other homes hold nothing
// that counts, and a write that was never committed may have left anything there (I11).
func (d *Disk) allHome(off, n int64) bool {
	if d.once == nil {
		return true
	}
	for _, b := range d.baseExtents(nil, off, off+n) {
		if b.state != atHome {
			return false
		}
	}
	return true
}

// adoptAbsent makes present what an accepted backing holds where the disk was absent: who wrote
// to it wants to see that, and zeros beside it would be neither disk nor backing. What the
// log speaks of is the log's.
func (d *Disk) adoptAbsent() error {
	if d.once == nil {
		return nil
	}
	for from := int64(0); ; {
		runs := d.once.state.AbsentRuns(from, walkChunk)
		for _, r := range runs {
			off := r.Start * blockBytes
			err := disk.Extents(d.home, off, min(r.N*blockBytes, d.size-off), func(off, n int64, hole bool) bool {
				if !hole {
					d.adopt(off/blockBytes, blocksOf(off+n))
				}
				return true
			})
			if err != nil {
				return fmt.Errorf("look for what the backing holds: %w", err)
			}
			from = r.Start + r.N
		}
		if len(runs) < walkChunk {
			return nil
		}
	}
}

// adopt makes the absent blocks [first, last) present, but for those whose bases the log changed.
func (d *Disk) adopt(first, last int64) {
	for _, e := range d.touched.lookup(nil, first*blockBytes, min(last*blockBytes, d.size)) {
		if stop := e.off / blockBytes; first < stop {
			d.once.state.MapHome(first, stop-first, d.super.Tail)
		}
		first = blocksOf(e.end)
	}
	if first < last {
		d.once.state.MapHome(first, last-first, d.super.Tail)
	}
}

// storeAccepted remembers that the backing of a disk with a log was accepted. The log is durable
// by now, so what it says of bases may be stored. Until then, a crash leaves a disk that is
// refused again.
func (d *Disk) storeAccepted() error {
	if err := d.saveBases(); err != nil {
		return err
	}
	if err := d.saveDirty(); err != nil {
		return err
	}
	if d.once != nil {
		d.once.generation = d.super.StateGeneration
		d.once.state.Committed(d.super.StateGeneration)
	}
	return nil
}

// identity is what tells an image file from its copies, or zero where nothing does.
func identity(dev disk.Device) ([16]byte, error) {
	f, ok := dev.(interface{ Identity() ([16]byte, error) })
	if !ok {
		return [16]byte{}, nil
	}
	id, err := f.Identity()
	if err != nil {
		return id, fmt.Errorf("identity of the backing: %w", err)
	}
	return id, nil
}

// modTime is when an image file was last modified, in ns since 1970, or 0 where that means
// nothing: the time of a block device is its node's.
func modTime(dev disk.Device) int64 {
	f, ok := dev.(interface {
		ModTime() (time.Time, error)
		BlockDevice() bool
	})
	if !ok || f.BlockDevice() {
		return 0
	}
	t, err := f.ModTime()
	if err != nil || t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
