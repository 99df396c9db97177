package crashdisk

import "math/rand/v2"

// change is one write or zeroing that the medium may not have yet. It is never modified
// once made: disks and their images share it.
type change struct {
	off, n int64  // bytes
	data   []byte // n bytes; nil: zeros
	punch  bool   // of zeros
}

// apply makes the whole change.
func (c *change) apply(to *store) { c.applyPart(to, c.off, c.off+c.n) }

// applyPart makes the change within [from, to), which lies in it.
func (c *change) applyPart(s *store, from, to int64) {
	if c.data == nil {
		s.zero(from, to-from, c.punch)
		return
	}
	s.write(c.data[from-c.off:to-c.off], from)
}

// Sectors that tear, in bytes.
const (
	minSector = 512
	bigSector = 4096
)

// tear makes the change for those of its sectors that keep says. Sectors are aligned on the
// disk, so that the first and the last may be cut short by the change's own ends.
func (c *change) tear(s *store, sector int64, keep func() bool) {
	for at, end := c.off, c.off+c.n; at < end; {
		next := min(end, (at/sector+1)*sector)
		if keep() {
			c.applyPart(s, at, next)
		}
		at = next
	}
}

// overlay makes the change in p, which holds the bytes from off on.
func (c *change) overlay(p []byte, off int64) {
	from, to := max(off, c.off), min(off+int64(len(p)), c.off+c.n)
	if from >= to {
		return
	}
	if c.data == nil {
		clear(p[from-off : to-off])
		return
	}
	copy(p[from-off:to-off], c.data[from-c.off:])
}

// part is the change within [from, to), which lies in it, as a change of its own.
func (c *change) part(from, to int64) *change {
	p := &change{off: from, n: to - from, punch: c.punch}
	if c.data != nil {
		p.data = c.data[from-c.off : to-c.off]
	}
	return p
}

// remains is what is left of the change when it failed: nothing, all of it, its beginning,
// or any of its sectors of 512 bytes.
func (c *change) remains(random *rand.Rand) (parts []*change) {
	switch random.IntN(4) {
	case 0:
		return nil
	case 1:
		return []*change{c}
	case 2:
		if sectors := c.n / minSector; sectors > 0 {
			end := (c.off/minSector + random.Int64N(sectors+1)) * minSector
			if end > c.off {
				return []*change{c.part(c.off, end)}
			}
		}
		return nil
	}
	for at, end := c.off, c.off+c.n; at < end; {
		next := min(end, (at/minSector+1)*minSector)
		if random.IntN(2) == 0 {
			parts = append(parts, c.part(at, next))
		}
		at = next
	}
	return parts
}
