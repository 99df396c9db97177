package journal

import (
	"fmt"
	"hash/crc32"
	"sync"

	"jnbd/disk"
	"jnbd/wal"
)

// A read, from the request to the bytes:
//
//  1. Enter the gate, so that no log space found from here on is given away (gate.go).
//  2. Ask the overlay which parts of the range are not home, and where they are.
//  3. Gaps come from the backing, logged parts from the log, zeros from nowhere.
//  4. Leave the gate.
//
// A block that is brought home meanwhile is read from the log (the gate holds its space); one
// that was brought home before step 2 is home already. Either way every change that was
// replied to before the read began is seen (I8).

// pieces are reused between reads: a read of one block finds one or two.
var pieces = sync.Pool{New: func() any { s := make([]extent, 0, 32); return &s }}

// ReadAt fills p from offset off. It sees every change that any caller was told is done.
// After poison it fails only where the bytes may be gone (P9).
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.inRange("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := d.read(p, off, false); err != nil {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return len(p), nil
}

// ReadCachedAt is ReadAt if that needs no wait for a medium; otherwise it reports false.
func (d *Disk) ReadCachedAt(p []byte, off int64) bool {
	if d.inRange("read", off, int64(len(p))) != nil {
		return false
	}
	return d.read(p, off, true) == nil
}

func (d *Disk) read(p []byte, off int64, cachedOnly bool) error {
	if len(p) == 0 {
		return nil
	}
	gen := d.gate.enter()
	defer d.gate.leave(gen)

	found := pieces.Get().(*[]extent)
	defer pieces.Put(found)
	end := off + int64(len(p))
	*found = d.overlay.lookup((*found)[:0], off, end)

	at := off
	for i := range *found {
		e := &(*found)[i]
		if e.off > at {
			if err := readFrom(d.home, p[at-off:e.off-off], at, cachedOnly); err != nil {
				return fmt.Errorf("backing: %w", err)
			}
		}
		if err := d.readExtent(p[e.off-off:e.end-off], e, cachedOnly); err != nil {
			return err
		}
		at = e.end
	}
	if at < end {
		if err := readFrom(d.home, p[at-off:], at, cachedOnly); err != nil {
			return fmt.Errorf("backing: %w", err)
		}
	}
	return nil
}

// readExtent fills p, as long as e, with what e says.
func (d *Disk) readExtent(p []byte, e *extent, cachedOnly bool) error {
	if e.state != logged {
		clear(p)
		return nil
	}
	if err := readFrom(d.ring, p, e.pos%d.ring.Size(), cachedOnly); err != nil {
		return fmt.Errorf("log at %d: %w", e.pos, err)
	}
	if e.checked {
		if got := crc32.Checksum(p, castagnoli); got != e.crc {
			return fmt.Errorf("log at %d: checksum %08x, want %08x: %w", e.pos, got, e.crc, wal.ErrCorrupt)
		}
	}
	// After a failed flush the kernel may have dropped log pages that never reached the
	// medium; what is read now in their place is older. Asked after the read: the failure
	// may have come in between.
	if d.poison.Load() != nil && !d.safeToRead(e.pos) {
		return d.poisoned()
	}
	return nil
}

// safeToRead reports whether the log's medium is known to hold the byte at pos.
func (d *Disk) safeToRead(pos int64) bool {
	return d.log == nil || pos < d.log.Stats().DurableUpTo
}

func readFrom(dev disk.Device, p []byte, off int64, cachedOnly bool) error {
	if cachedOnly {
		return disk.ReadCached(dev, p, off)
	}
	_, err := dev.ReadAt(p, off)
	return err
}

// Extents calls visit for consecutive pieces of [off, off+n) until it returns false. hole:
// no space is held for the piece; zero: it reads as zeros. True to what ReadAt returns.
func (d *Disk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	if err := d.inRange("extents", off, n); err != nil {
		return err
	}
	gen := d.gate.enter()
	defer d.gate.leave(gen)

	const step = 4096 // pieces at a time, so that a map of millions is not copied for one answer
	end := off + n
	more := true
	for at := off; at < end && more; {
		found := d.overlay.lookupSome(nil, at, end, step)
		stop := end
		if len(found) == step {
			stop = found[step-1].end
		}
		for i := range found {
			e := &found[i]
			if more && e.off > at {
				if err := d.homeExtents(at, e.off, &more, visit); err != nil {
					return err
				}
			}
			if more {
				more = visit(e.off, e.end-e.off, e.state == zeroed, e.state != logged)
			}
			at = e.end
		}
		if more && at < stop {
			if err := d.homeExtents(at, stop, &more, visit); err != nil {
				return err
			}
			at = stop
		}
	}
	return nil
}

func (d *Disk) homeExtents(off, end int64, more *bool, visit func(off, n int64, hole, zero bool) bool) error {
	return disk.Extents(d.home, off, end-off, func(o, n int64, hole bool) bool {
		*more = visit(o, n, hole, hole)
		return *more
	})
}
