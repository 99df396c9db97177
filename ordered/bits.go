package ordered

import "math/bits"

// bitset is one bit per block or slot. It knows its length only as its capacity; callers
// keep ranges inside it.
type bitset []uint64

func newBitset(n int64) bitset { return make(bitset, divideUp(n, 64)) }

func (b bitset) get(i int64) bool { return b[i/64]>>(i%64)&1 == 1 }

// run is the number of bits from at on, below end, that are equal to the one at at, and
// that bit. at must be below end.
func (b bitset) run(at, end int64) (n int64, set bool) {
	set = b.get(at)
	var same uint64
	if set {
		same = ^uint64(0)
	}
	w := at / 64
	differ := (b[w] ^ same) >> (at % 64) << (at % 64)
	for differ == 0 {
		w++
		if w*64 >= end {
			return end - at, set
		}
		differ = b[w] ^ same
	}
	return min(end, w*64+int64(bits.TrailingZeros64(differ))) - at, set
}

// all reports whether every bit of [from, end) is as asked.
func (b bitset) all(from, end int64, set bool) bool {
	if from >= end {
		return true
	}
	n, is := b.run(from, end)
	return is == set && n == end-from
}

// setRange sets [from, end) and returns how many bits of it were clear.
func (b bitset) setRange(from, end int64) (changed int64) {
	for at := from; at < end; {
		w, mask, next := maskOf(at, end)
		changed += int64(bits.OnesCount64(mask &^ b[w]))
		b[w] |= mask
		at = next
	}
	return changed
}

// clearRange clears [from, end) and returns how many bits of it were set.
func (b bitset) clearRange(from, end int64) (changed int64) {
	for at := from; at < end; {
		w, mask, next := maskOf(at, end)
		if b[w] != 0 { // untouched memory stays untouched
			changed += int64(bits.OnesCount64(mask & b[w]))
			b[w] &^= mask
		}
		at = next
	}
	return changed
}

// maskOf is the word of bit at, with the bits of it that lie in [at, end), and where the
// next word begins.
func maskOf(at, end int64) (word int64, mask uint64, next int64) {
	word = at / 64
	mask = ^uint64(0) << (at % 64)
	next = (word + 1) * 64
	if next > end {
		mask &= ^uint64(0) >> (next - end)
		next = end
	}
	return word, mask, next
}
