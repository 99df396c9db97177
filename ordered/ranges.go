package ordered

import "github.com/tidwall/btree"

// Run is n blocks, or slots, from Start on.
type Run struct{ Start, N int64 }

// tagged is a range of a rangeSet.
type tagged struct {
	end int64
	tag uint64
}

// rangeSet is a set of blocks, each with a tag. Ranges do not overlap; neighbours with one
// tag are one range.
type rangeSet struct {
	tree btree.Map[int64, tagged] // by first block
}

// set gives [from, end) the tag, whatever it had before.
func (s *rangeSet) set(from, end int64, tag uint64) {
	s.clear(from, end)
	s.tree.Descend(from-1, func(k int64, v tagged) bool {
		if v.end == from && v.tag == tag {
			from = k
		}
		return false
	})
	if v, ok := s.tree.Get(end); ok && v.tag == tag {
		s.tree.Delete(end)
		end = v.end
	}
	s.tree.Set(from, tagged{end: end, tag: tag})
}

// clear takes [from, end) out of the set.
func (s *rangeSet) clear(from, end int64) { s.clearIf(from, end, nil) }

// clearTag takes out those blocks of [from, end) that have the tag.
func (s *rangeSet) clearTag(from, end int64, tag uint64) {
	s.clearIf(from, end, func(has uint64) bool { return has == tag })
}

func (s *rangeSet) clearIf(from, end int64, match func(tag uint64) bool) {
	for at := from; at < end; {
		start, v, ok := s.first(at, end)
		if !ok {
			return
		}
		at = v.end
		if match != nil && !match(v.tag) {
			continue
		}
		s.tree.Delete(start)
		if start < from {
			s.tree.Set(start, tagged{end: from, tag: v.tag})
		}
		if v.end > end {
			s.tree.Set(end, v)
		}
	}
}

// first is the first range that overlaps [from, end), whole.
func (s *rangeSet) first(from, end int64) (start int64, v tagged, ok bool) {
	if s.tree.Len() == 0 || from >= end {
		return 0, tagged{}, false
	}
	s.tree.Descend(from, func(k int64, kv tagged) bool {
		start, v, ok = k, kv, kv.end > from
		return false
	})
	if ok {
		return start, v, true
	}
	s.tree.Ascend(from, func(k int64, kv tagged) bool {
		start, v, ok = k, kv, k < end
		return false
	})
	return start, v, ok
}

// overlaps reports whether any block of [from, end) is in the set.
func (s *rangeSet) overlaps(from, end int64) bool {
	_, _, ok := s.first(from, end)
	return ok
}

// run is the number of blocks from at on, below end, that are alike in being in the set or
// not, and which.
func (s *rangeSet) run(at, end int64) (n int64, in bool) {
	start, v, ok := s.first(at, end)
	switch {
	case !ok:
		return end - at, false
	case start > at:
		return start - at, false
	}
	return min(v.end, end) - at, true
}

// visit calls f for the ranges that overlap [from, end), whole, until f returns false. f
// must not change the set.
func (s *rangeSet) visit(from, end int64, f func(start, end int64, tag uint64) bool) {
	start, _, ok := s.first(from, end)
	if !ok {
		return
	}
	s.tree.Ascend(start, func(k int64, v tagged) bool {
		return k < end && f(k, v.end, v.tag)
	})
}
