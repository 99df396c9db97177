package crashdisk

// pageSize is the unit of sharing between a disk and its images, in bytes.
const pageSize = 4096

type page struct {
	owner *owner // who may write in place; anybody else copies
	data  [pageSize]byte
}

// owner is the identity of one store. It has a size, so that no two are at one address.
type owner struct{ _ byte }

// zeroPage is allocated and reads as zeros. It has no owner: it is never written.
var zeroPage = &page{}

// store is the content of a disk: copy on write, so that an image costs 8 bytes a page.
type store struct {
	owner *owner
	pages []*page // nil: a hole
}

func newStore(size int64) *store {
	return &store{owner: new(owner), pages: make([]*page, (size+pageSize-1)/pageSize)}
}

// clone is an independent copy. Both sides copy a page before they next write to it.
func (s *store) clone() *store {
	s.owner = new(owner)
	return &store{owner: new(owner), pages: append([]*page(nil), s.pages...)}
}

// read fills p from off.
func (s *store) read(p []byte, off int64) {
	for len(p) > 0 {
		at := off % pageSize
		n := min(int64(len(p)), pageSize-at)
		if pg := s.pages[off/pageSize]; pg != nil {
			copy(p[:n], pg.data[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// write puts p at off.
func (s *store) write(p []byte, off int64) {
	for len(p) > 0 {
		at := off % pageSize
		n := min(int64(len(p)), pageSize-at)
		copy(s.own(off/pageSize, n == pageSize).data[at:], p[:n])
		p, off = p[n:], off+n
	}
}

// own is page i, writable. With whole, its content doesn't matter.
func (s *store) own(i int64, whole bool) *page {
	pg := s.pages[i]
	if pg != nil && pg.owner == s.owner {
		return pg
	}
	fresh := &page{owner: s.owner}
	if pg != nil && !whole {
		fresh.data = pg.data
	}
	s.pages[i] = fresh
	return fresh
}

// zero makes n bytes at off zero. Whole pages become holes with punch, allocated without.
func (s *store) zero(off, n int64, punch bool) {
	for n > 0 {
		i, at := off/pageSize, off%pageSize
		k := min(n, pageSize-at)
		switch {
		case k == pageSize && punch:
			s.pages[i] = nil
		case k == pageSize, s.pages[i] == nil && !punch:
			s.pages[i] = zeroPage
		case s.pages[i] != nil && s.pages[i] != zeroPage:
			clear(s.own(i, false).data[at : at+k])
		}
		off, n = off+k, n-k
	}
}

// extent is a run of pages that are all holes or all not.
type extent struct {
	off, n int64 // bytes
	hole   bool
}

// extents are those of [off, off+n), in order.
func (s *store) extents(off, n int64) (list []extent) {
	for end := off + n; off < end; {
		next := min(end, (off/pageSize+1)*pageSize)
		hole := s.pages[off/pageSize] == nil
		if last := len(list) - 1; last >= 0 && list[last].hole == hole {
			list[last].n += next - off
		} else {
			list = append(list, extent{off, next - off, hole})
		}
		off = next
	}
	return list
}
