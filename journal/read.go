package journal

import (
	"fmt"
	"math"
	"sync"

	"jnbd/disk"
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
	*found = d.locate((*found)[:0], off, end)

	if d.once != nil && d.poison.Load() != nil && d.once.freshCovers(off, end, d.durableUpTo()) {
		return d.poisoned()
	}
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

// locate appends to dst where the bytes of [off, end) are, in order. What is not mentioned
// is at home. Log and bases are looked at under one lock, as they change.
func (d *Disk) locate(dst []extent, off, end int64) []extent {
	return d.locateSome(dst, off, end, math.MaxInt)
}

// locateSome is locate that stops after most extents of the overlay.
func (d *Disk) locateSome(dst []extent, off, end int64, most int) []extent {
	if d.once == nil {
		return d.overlay.lookupSome(dst, off, end, most)
	}
	d.overlay.mu.RLock()
	defer d.overlay.mu.RUnlock()
	var room [32]extent
	at := off
	found := d.overlay.lookupLocked(room[:0], off, end, most)
	for i := range found {
		if found[i].off > at {
			dst = d.baseExtents(dst, at, found[i].off)
		}
		dst = append(dst, found[i])
		at = found[i].end
	}
	if at < end && len(found) < most {
		dst = d.baseExtents(dst, at, end)
	}
	return dst
}

// readExtent fills p, as long as e, with what e says.
func (d *Disk) readExtent(p []byte, e *extent, cachedOnly bool) error {
	switch e.state {
	case atHome:
		if err := readFrom(d.home, p, e.off, cachedOnly); err != nil {
			return fmt.Errorf("backing: %w", err)
		}
		return nil
	case inSpare:
		if err := readFrom(d.once.spare, p, e.pos, cachedOnly); err != nil {
			return fmt.Errorf("spare: %w", err)
		}
		return nil
	case zeroed, zeroKept:
		clear(p)
		return nil
	}
	var err error
	if cachedOnly {
		err = d.payloads.ReadCachedAt(p, e.pos)
	} else {
		_, err = d.payloads.ReadAt(p, e.pos)
	}
	if err != nil {
		return err
	}
	if err := checkPayload(p, e); err != nil {
		return err
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
	return pos < d.durableUpTo()
}

// durableUpTo is the log position up to which everything is known to be on the media.
func (d *Disk) durableUpTo() int64 {
	if d.log == nil {
		return math.MaxInt64
	}
	return d.log.Stats().DurableUpTo
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
		found := d.locateSome(nil, at, end, step)
		stop := end
		if len(found) >= step {
			stop = found[len(found)-1].end
		}
		for i := range found {
			e := &found[i]
			if more && e.off > at {
				if err := d.homeExtents(at, e.off, &more, visit); err != nil {
					return err
				}
			}
			switch {
			case !more:
			case e.state == atHome:
				more = visit(e.off, e.end-e.off, false, false)
			default:
				zero := e.state == zeroed || e.state == zeroKept
				more = visit(e.off, e.end-e.off, e.state == zeroed, zero)
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
