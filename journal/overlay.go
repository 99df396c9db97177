package journal

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/tidwall/btree"
)

// state is what an extent says of its bytes.
type state uint8

const (
	logged   state = iota // the bytes stand in the log, from pos on
	zeroed                // zeros; the host may have the space
	zeroKept              // zeros; the space stays ours

	// Bases, as reads find them; never in the overlay.
	atHome  // on the backing, at off
	inSpare // in the spare area, from byte pos on

	// Changes of bases, as records say them; never in the overlay either.
	mappedSpare // written once, to spare slots from slot on
	mappedHome  // written once, in place
	broughtHome // copied home from spare

	disowned // of overlay.changeLocked: nobody owns the range any more
)

// extent is a range of the disk whose newest bytes are not home yet.
type extent struct {
	off, end int64  // [off, end) on the disk
	pos      int64  // log position of the byte at off; for zeros, a position in their frame
	slot     int64  // of mappedSpare
	frame    int64  // position of its frame, in recovery
	proves   int64  // the durable mark that its frame carries, in recovery
	crc      uint32 // CRC32C of the whole extent, if checked
	state    state
	checked  bool // crc is known: a whole record, found by recovery
}

// value is an extent without its key.
type value struct {
	end     int64
	pos     int64
	crc     uint32
	state   state
	checked bool
}

// extentBytes is what one extent costs in memory, B-tree slack included: an estimate from
// heap profiles of random inserts, used to keep Options.Memory.
const extentBytes = 80

// overlay maps the disk to the log: for every byte that was changed and is not home yet, its
// newest version, and nothing for any other. It holds positions, never payloads: the page
// cache of the log is the memory (decision 0003).
//
// Invariants:
//   - extents don't overlap and are never empty;
//   - the newest change of a byte owns it (last owner wins);
//   - an extent with pos < T means a frame before T holds the only copy.
type overlay struct {
	mu    sync.RWMutex
	tree  btree.Map[int64, value] // guarded by mu; key: offset on the disk
	bytes int64                   // guarded by mu; sum of the extents' lengths
}

// put makes e the owner of its range.
func (o *overlay) put(e extent) {
	o.mu.Lock()
	o.putLocked(e)
	o.mu.Unlock()
}

func (o *overlay) putLocked(e extent) {
	old, was := o.tree.Set(e.off, value{end: e.end, pos: e.pos, crc: e.crc, state: e.state, checked: e.checked})
	o.bytes += e.end - e.off
	switch {
	case was:
		o.bytes -= min(old.end, e.end) - e.off
		if old.end > e.end {
			o.tree.Set(e.end, old.from(e.off, e.end))
		} else if old.end < e.end { // equal is the common case by far: the same block again
			o.clearFromLocked(old.end, e.end)
		}
	case !o.cutBeforeLocked(e.off, e.end):
		o.clearFromLocked(e.off+1, e.end)
	}
}

// changeLocked makes e the owner of its range, or leaves it to nobody.
func (o *overlay) changeLocked(e extent) {
	if e.state == disowned {
		o.clearLocked(e.off, e.end)
		return
	}
	o.putLocked(e)
}

// load makes changes in the order of their writing, which is their order in the slice. It sorts
// them by place first, if they are the same blocks again and again, as file systems write them:
// neighbours in the tree are found in the processor's cache then, and a log of 4 GiB has a
// million of them. It keeps nothing of changes.
func (o *overlay) load(changes []extent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.loadSortedLocked(changes) {
		for i := range changes {
			o.changeLocked(changes[i])
		}
	}
}

// place is where a change stands in a slice of changes, and where its range begins. Sorting
// these moves a quarter of the memory that sorting extents would.
type place struct {
	off int64
	at  int32
}

// loadSortedLocked does nothing and reports false if changes are parts of each other: only the
// order of writing tells then who owns what.
func (o *overlay) loadSortedLocked(changes []extent) bool {
	places := make([]place, len(changes))
	for i := range changes {
		places[i] = place{changes[i].off, int32(i)}
	}
	slices.SortFunc(places, func(a, b place) int {
		if a.off != b.off {
			return cmp.Compare(a.off, b.off)
		}
		return cmp.Compare(a.at, b.at)
	})
	for i := 1; i < len(places); i++ {
		a, b := &changes[places[i-1].at], &changes[places[i].at]
		if a.end > b.off && (a.off != b.off || a.end != b.end) {
			return false
		}
	}
	for i, p := range places {
		if last := i+1 == len(places) || places[i+1].off != p.off; last {
			o.changeLocked(changes[p.at])
		}
	}
	return true
}

// clearLocked takes [off, end) from its owners. Owners that reach beyond keep the rest.
func (o *overlay) clearLocked(off, end int64) {
	if !o.cutBeforeLocked(off, end) {
		o.clearFromLocked(off, end)
	}
}

// cutBeforeLocked takes [off, end) from the owner that begins before it, if that reaches in, and
// reports whether it owned all of it.
func (o *overlay) cutBeforeLocked(off, end int64) (all bool) {
	var before int64 = -1
	var bv value
	o.tree.Descend(off-1, func(k int64, v value) bool {
		before, bv = k, v
		return false
	})
	if before < 0 || bv.end <= off {
		return false
	}
	left := bv
	left.end, left.checked = off, false
	o.tree.Set(before, left)
	o.bytes -= min(bv.end, end) - off
	if bv.end <= end {
		return bv.end == end
	}
	o.tree.Set(end, bv.from(before, end))
	return true
}

// clearFromLocked takes [off, end) from the owners that begin in it.
func (o *overlay) clearFromLocked(off, end int64) {
	for {
		key, v, found := int64(0), value{}, false
		o.tree.Ascend(off, func(k int64, kv value) bool {
			key, v, found = k, kv, k < end
			return false
		})
		if !found {
			return
		}
		o.tree.Delete(key)
		o.bytes -= min(v.end, end) - key
		if v.end > end {
			o.tree.Set(end, v.from(key, end))
			return
		}
	}
}

// from is v's part from offset cut on, where v begins at off.
func (v value) from(off, cut int64) value {
	if v.state == logged {
		v.pos += cut - off
	}
	v.checked = false
	return v
}

// lookup appends to dst the extents that own parts of [off, end), cut to it, in order.
func (o *overlay) lookup(dst []extent, off, end int64) []extent {
	return o.lookupSome(dst, off, end, math.MaxInt)
}

// lookupSome is lookup that stops after most extents.
func (o *overlay) lookupSome(dst []extent, off, end int64, most int) []extent {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.lookupLocked(dst, off, end, most)
}

func (o *overlay) lookupLocked(dst []extent, off, end int64, most int) []extent {
	if o.tree.Len() == 0 {
		return dst
	}
	start := off
	o.tree.Descend(off, func(k int64, v value) bool {
		if v.end > off {
			start = k
		}
		return false
	})
	o.tree.Ascend(start, func(k int64, v value) bool {
		if k >= end || most == 0 {
			return false
		}
		most--
		e := extent{off: k, end: v.end, pos: v.pos, crc: v.crc, state: v.state, checked: v.checked}
		dst = append(dst, e.cut(off, end))
		return true
	})
	return dst
}

// cut is the part of e inside [off, end).
func (e extent) cut(off, end int64) extent {
	if e.off < off {
		if e.state == logged || e.state == inSpare {
			e.pos += off - e.off
		}
		e.off, e.checked = off, false
	}
	if e.end > end {
		e.end, e.checked = end, false
	}
	return e
}

// covers reports whether any byte of [off, end) has an owner here.
func (o *overlay) covers(off, end int64) bool {
	var room [1]extent
	return len(o.lookup(room[:0], off, end)) > 0
}

// walkChunk is how many extents are looked at under one hold of the lock, so that a walk
// over millions never stops writers for longer than some microseconds.
const walkChunk = 1024

// below appends to dst up to walkChunk extents from offset from on whose frames lie before
// tail, and returns the offset to go on from, or -1 at the end.
func (o *overlay) below(dst []extent, from, tail int64) ([]extent, int64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	seen, next := 0, int64(-1)
	o.tree.Ascend(from, func(k int64, v value) bool {
		if seen++; seen > walkChunk {
			next = k
			return false
		}
		if v.pos < tail {
			dst = append(dst, extent{off: k, end: v.end, pos: v.pos, crc: v.crc, state: v.state, checked: v.checked})
		}
		return true
	})
	return dst, next
}

// forget drops every extent whose frame lies before tail: its bytes are home. Finding and
// dropping happen under one hold of the lock: a write between the two could split an old
// extent and leave a part behind that nobody looks at again. dropped, if not nil, is told of
// each under the lock.
func (o *overlay) forget(tail int64, dropped func(off, end int64)) {
	gone := make([]int64, 0, walkChunk)
	for from := int64(0); from >= 0; {
		from = o.forgetChunk(gone[:0], from, tail, dropped)
	}
}

func (o *overlay) forgetChunk(gone []int64, from, tail int64, dropped func(off, end int64)) (next int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := 0
	next = -1
	o.tree.Ascend(from, func(k int64, v value) bool {
		if seen++; seen > walkChunk {
			next = k
			return false
		}
		if v.pos < tail {
			gone = append(gone, k)
			o.bytes -= v.end - k
			if dropped != nil {
				dropped(k, v.end)
			}
		}
		return true
	})
	for _, k := range gone {
		o.tree.Delete(k)
	}
	return next
}

// size is the number of extents and the bytes they own.
func (o *overlay) size() (extents int, bytes int64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.tree.Len(), o.bytes
}
