package ordered

import "github.com/tidwall/btree"

// A run's length and slot are packed into one word, so that a run with its block takes 16
// bytes, and at most 48 with the slack of a half-full tree (bounds_test.go measures it).
// Longer runs are kept in parts.
const (
	runBits  = 24
	slotBits = 64 - runBits
	maxRun   = int64(1)<<runBits - 1
)

// mapped is a run of displaced blocks: block+i lies in slot+i for i < n.
type mapped struct{ block, n, slot int64 }

func pack(n, slot int64) uint64 { return uint64(slot)<<runBits | uint64(n) }

func unpack(block int64, v uint64) mapped {
	return mapped{block: block, n: int64(v & uint64(maxRun)), slot: int64(v >> runBits)}
}

func (m mapped) end() int64 { return m.block + m.n }

// cut is the part of m inside [from, end).
func (m mapped) cut(from, end int64) mapped {
	if skip := from - m.block; skip > 0 {
		m = mapped{block: from, n: m.n - skip, slot: m.slot + skip}
	}
	m.n = min(m.end(), end) - m.block
	return m
}

// displaced is the map of displaced blocks. Invariants: runs are not empty and do not
// overlap; neighbours that go on in block and slot are one run, up to maxRun.
type displaced struct {
	tree   btree.Map[int64, uint64] // by first block
	blocks int64                    // sum of the runs' lengths
}

// before is the run that begins before block and reaches beyond it, if any.
func (d *displaced) before(block int64) (found mapped, ok bool) {
	d.tree.Descend(block-1, func(k int64, v uint64) bool {
		found = unpack(k, v)
		ok = found.end() > block
		return false
	})
	return found, ok
}

// visit calls f for the runs in [from, end), cut to it, in order, until f returns false.
func (d *displaced) visit(from, end int64, f func(mapped) bool) {
	if d.blocks == 0 {
		return
	}
	if m, ok := d.before(from); ok {
		if !f(m.cut(from, end)) {
			return
		}
	}
	d.tree.Ascend(from, func(k int64, v uint64) bool {
		return k < end && f(unpack(k, v).cut(from, end))
	})
}

// next is the first run in [from, end), cut to it.
func (d *displaced) next(from, end int64) (found mapped, ok bool) {
	d.visit(from, end, func(m mapped) bool {
		found, ok = m, true
		return false
	})
	return found, ok
}

// put enters a run. Its blocks must not be in the map.
func (d *displaced) put(m mapped) {
	d.blocks += m.n
	for ; m.n > maxRun; m = m.cut(m.block+maxRun, m.end()) {
		d.tree.Set(m.block, pack(maxRun, m.slot))
	}
	d.tree.Descend(m.block-1, func(k int64, v uint64) bool {
		left := unpack(k, v)
		if left.end() == m.block && left.slot+left.n == m.slot && left.n+m.n <= maxRun {
			m = mapped{block: left.block, n: left.n + m.n, slot: left.slot}
		}
		return false
	})
	if v, ok := d.tree.Get(m.end()); ok {
		right := unpack(m.end(), v)
		if m.slot+m.n == right.slot && m.n+right.n <= maxRun {
			d.tree.Delete(right.block)
			m.n += right.n
		}
	}
	d.tree.Set(m.block, pack(m.n, m.slot))
}

// take removes [from, end) from the map and calls f for what was there, in order. f must not
// use the map.
func (d *displaced) take(from, end int64, f func(mapped)) {
	if d.blocks == 0 {
		return
	}
	if d.coveredBy(from, end) {
		d.tree.Scan(func(k int64, v uint64) bool {
			f(unpack(k, v))
			return true
		})
		d.tree.Clear()
		d.blocks = 0
		return
	}
	var taken []mapped
	d.visit(from, end, func(m mapped) bool {
		taken = append(taken, m)
		return true
	})
	if len(taken) == 0 {
		return
	}
	if m, ok := d.before(from); ok {
		d.tree.Set(m.block, pack(from-m.block, m.slot))
		d.keepRest(m, end)
	}
	for _, m := range taken {
		if v, ok := d.tree.Get(m.block); ok {
			d.tree.Delete(m.block)
			d.keepRest(unpack(m.block, v), end)
		}
		d.blocks -= m.n
		f(m)
	}
}

// keepRest enters the part of m from end on, of which all before end is gone.
func (d *displaced) keepRest(m mapped, end int64) {
	if m.end() > end {
		rest := m.cut(end, m.end())
		d.tree.Set(rest.block, pack(rest.n, rest.slot))
	}
}

// coveredBy reports whether the whole map lies in [from, end).
func (d *displaced) coveredBy(from, end int64) bool {
	low, _, _ := d.tree.Min()
	k, v, _ := d.tree.Max()
	return low >= from && unpack(k, v).end() <= end
}
