package ordered

import "fmt"

// BlockBytes is the length of a block and of a spare slot.
const BlockBytes = 4096

// What a layout may hold at most. They follow from the packing of runs (displaced.go).
const (
	maxBlocks = int64(1) << 50
	maxSlots  = int64(1) << slotBits
)

// Layout is the size of the two places a block can be in.
type Layout struct {
	Blocks int64 // homes: the disk's size in blocks, rounded up; 0 to 2^50
	Slots  int64 // spare slots; 0 to 2^40
}

// Validate says what is wrong with the layout, or nil.
func (l Layout) Validate() error {
	switch {
	case l.Blocks < 0 || l.Blocks > maxBlocks:
		return fmt.Errorf("layout: %d blocks, want 0 to %d", l.Blocks, maxBlocks)
	case l.Slots < 0 || l.Slots > maxSlots:
		return fmt.Errorf("layout: %d slots, want 0 to %d", l.Slots, maxSlots)
	}
	return nil
}

// StateBytes is the room that the stored state of a layout needs on its device: a multiple
// of 8192. Parts that were never used are never written.
func StateBytes(l Layout) int64 { return newTree(l).pages * 2 * pageBytes }

// pageTree is how the stored pages hang together: the leaves hold the state, every other
// page says which version of each of its children counts, and the root is the last page.
//
//	page 0 …            presence bits, bitsPerPage blocks each
//	page bitPages …     the slot table, wordsPerPage slots each
//	page levels[1] …    one index page for wordsPerPage leaves each
//	page levels[2] …    one index page for wordsPerPage pages of level 1 each
//	…
//	page pages-1        the root
type pageTree struct {
	layout    Layout
	bitPages  int64
	slotPages int64
	levels    []int64 // first page of each level; levels[0] is 0, the last one is the root
	pages     int64
}

func newTree(l Layout) pageTree {
	t := pageTree{
		layout:    l,
		bitPages:  divideUp(l.Blocks, bitsPerPage),
		slotPages: divideUp(l.Slots, wordsPerPage),
		levels:    []int64{0},
	}
	level := t.bitPages + t.slotPages
	t.pages = level
	for {
		level = max(1, divideUp(level, wordsPerPage))
		t.levels = append(t.levels, t.pages)
		t.pages += level
		if level == 1 {
			return t
		}
	}
}

// leaves is the number of pages that hold state.
func (t *pageTree) leaves() int64 { return t.levels[1] }

// root is the number of the root page.
func (t *pageTree) root() int64 { return t.pages - 1 }

// kind is what page number holds.
func (t *pageTree) kind(number int64) pageKind {
	switch {
	case number < t.bitPages:
		return kindBits
	case number < t.leaves():
		return kindSlots
	}
	return kindIndex
}

// level is the level that a page stands on.
func (t *pageTree) level(number int64) int {
	for i := len(t.levels) - 1; ; i-- {
		if number >= t.levels[i] {
			return i
		}
	}
}

// children are the pages [first, end) that an index page speaks of.
func (t *pageTree) children(number int64) (first, end int64) {
	i := t.level(number)
	first = t.levels[i-1] + (number-t.levels[i])*wordsPerPage
	return first, min(first+wordsPerPage, t.levels[i])
}

// offset is where a page's place is on the device.
func offset(number int64, place uint64) int64 {
	return (number*2 + int64(place)) * pageBytes
}

func divideUp(n, unit int64) int64 { return (n + unit - 1) / unit }
