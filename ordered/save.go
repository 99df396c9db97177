package ordered

import (
	"fmt"
	"slices"

	"jnbd/disk"
)

// The state goes to its device:
//
//  1. Save takes, under the lock, what the pages that changed have to say: a copy of their
//     bits, and a copy-on-write copy of the map. Changes go on while the rest is done.
//  2. Each such page is written to that of its two places that the committed state does not
//     use; then the index pages above them; then the root.
//  3. The engine flushes the device, and makes the log durable beyond every change that was
//     made before Save returned (Stats.Newest): what is stored must not be ahead of the log.
//  4. It saves a superblock that names the generation, durably.
//  5. Committed tells the state: from now on the other places are the free ones.
//
// After Load, what step 4 did in an earlier life has to be done again first: the superblock
// that was found may be in the page cache only, and if power takes it, an older one names the
// very places that step 2 is about to write. So the engine saves a superblock that names the
// loaded generation, durably, and calls Committed; Save refuses before that.
//
// Nothing that step 2 writes is referred to before step 4, so a crash anywhere leaves the
// committed state whole. If step 4 fails nobody knows which generation counts, and the state
// must not be saved again: the disk is poisoned.

// saveBatch is how many pages of the slot table are filled in one walk over the map. It
// bounds a save's memory to 16 MiB for them.
const saveBatch = 4096

// saveState is what is known of the stored pages.
type saveState struct {
	entries    []uint64 // the committed version of each page, the root's last
	generation uint64   // of the committed state; 0 for none
	unsure     bool     // loaded: the superblock that names the generation may not be durable

	next        []uint64 // entries of a save not yet committed; nil for none
	nextSave    uint64   // its generation
	uncommitted bitset   // the leaves that it wrote
}

// Save writes what changed since the last committed save to dev, as generation, which must be
// higher than the committed one. Nothing is durable on return: see the steps above. After an
// error the committed state is as it was.
//
// It costs one walk over the map of displaced blocks for each 16 MiB of the slot table
// that changed, outside the lock, and one write of 4 KiB for each page.
func (s *State) Save(dev disk.Device, generation uint64) error {
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	if generation <= s.save.generation || generation > maxGeneration {
		return fmt.Errorf("save write-once state: generation %d, want %d to %d", generation, s.save.generation+1, maxGeneration)
	}
	if s.save.unsure {
		panic("ordered: Save of a loaded state before Committed of what it was loaded from")
	}
	if have, want := dev.Size(), StateBytes(s.layout); have < want {
		return fmt.Errorf("save write-once state: room of %d bytes, want %d", have, want)
	}
	w := &saver{dev: dev, tree: &s.tree, generation: generation, committed: s.save.entries, next: slices.Clone(s.save.entries)}
	s.takeDirty(w)
	s.save.next, s.save.uncommitted = nil, nil // its places are about to be written again
	err := w.writeAll(s.save.generation == 0)
	if err != nil {
		s.mu.Lock()
		for i := range s.dirty {
			s.dirty[i] |= w.dirty[i]
		}
		s.mu.Unlock()
		return fmt.Errorf("save write-once state, generation %d: %w", generation, err)
	}
	s.save.next, s.save.nextSave, s.save.uncommitted = w.next, generation, w.dirty
	return nil
}

// Committed says that a superblock which names generation is durable: that of the last Save,
// or the one it was loaded from, which a superblock may name again as often as it likes.
func (s *State) Committed(generation uint64) {
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	if generation == s.save.generation && s.save.next == nil {
		s.save.unsure = false
		return
	}
	if s.save.next == nil || s.save.nextSave != generation {
		panic(fmt.Sprintf("ordered: Committed(%d), but the save before it was of generation %d", generation, s.save.nextSave))
	}
	s.save = saveState{entries: s.save.next, generation: generation}
}

// takeDirty is step 1.
func (s *State) takeDirty(w *saver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mustBeLiveLocked("Save")
	w.dirty, s.dirty = s.dirty, newBitset(s.tree.leaves())
	for i, word := range s.save.uncommitted {
		w.dirty[i] |= word
	}
	pages := 0
	w.eachDirty(0, s.tree.bitPages, func(int64) { pages++ })
	w.bits = make([]uint64, 0, pages*wordsPerPage)
	w.eachDirty(0, s.tree.bitPages, func(number int64) {
		first := number * wordsPerPage
		w.bits = append(w.bits, s.present[first:min(first+wordsPerPage, int64(len(s.present)))]...)
	})
	w.displaced.blocks = s.displaced.blocks
	w.displaced.tree = *s.displaced.tree.Copy()
}

// saver is one save on its way.
type saver struct {
	dev        disk.Device
	tree       *pageTree
	generation uint64
	committed  []uint64
	next       []uint64

	dirty     bitset    // leaves to write
	bits      []uint64  // the words of those with presence bits, one after the other
	displaced displaced // the map as it was

	page   page // the one being written
	buffer [pageBytes]byte
}

// writeAll is step 2. first: no state was ever committed.
func (w *saver) writeAll(first bool) error {
	var err error
	bits := w.bits
	w.eachDirty(0, w.tree.bitPages, func(number int64) {
		if err != nil {
			return
		}
		clear(w.page.words[copy(w.page.words[:], bits):])
		bits = bits[min(wordsPerPage, len(bits)):]
		err = w.write(number)
	})
	if err != nil {
		return err
	}
	if err := w.writeSlots(); err != nil {
		return err
	}
	if err := w.writeIndex(); err != nil {
		return err
	}
	if !first {
		return nil
	}
	// An older journal may have left a root of the same generation in the place that is not
	// ours.
	clear(w.buffer[:])
	return w.put(w.tree.root(), 1-entryPlace(w.next[w.tree.root()]))
}

// writeSlots writes the changed pages of the slot table: the inverse of the map.
func (w *saver) writeSlots() error {
	var batch []int64
	var err error
	w.eachDirty(w.tree.bitPages, w.tree.leaves(), func(number int64) {
		if batch = append(batch, number); len(batch) == saveBatch && err == nil {
			err = w.writeSlotPages(batch)
			batch = batch[:0]
		}
	})
	if err == nil && len(batch) > 0 {
		err = w.writeSlotPages(batch)
	}
	return err
}

// writeSlotPages fills and writes some pages of the slot table, ascending.
func (w *saver) writeSlotPages(numbers []int64) error {
	words := make([][wordsPerPage]uint64, len(numbers))
	first, last := numbers[0], numbers[len(numbers)-1]
	w.displaced.tree.Scan(func(block int64, v uint64) bool {
		m := unpack(block, v)
		for m.n > 0 {
			number := w.tree.bitPages + m.slot/wordsPerPage
			at := m.slot % wordsPerPage
			n := min(m.n, wordsPerPage-at)
			if number >= first && number <= last && w.dirty.get(number) {
				i, _ := slices.BinarySearch(numbers, number)
				for k := range n {
					words[i][at+k] = uint64(m.block+k) + 1
				}
			}
			m = mapped{block: m.block + n, n: m.n - n, slot: m.slot + n}
		}
		return true
	})
	for i, number := range numbers {
		w.page.words = words[i]
		if err := w.write(number); err != nil {
			return err
		}
	}
	return nil
}

// writeIndex writes the index pages with a changed child, level by level, and always the
// root.
func (w *saver) writeIndex() error {
	for number := w.tree.leaves(); number < w.tree.pages; number++ {
		first, end := w.tree.children(number)
		if number != w.tree.root() && slices.Equal(w.next[first:end], w.committed[first:end]) {
			continue
		}
		clear(w.page.words[copy(w.page.words[:], w.next[first:end]):])
		if err := w.write(number); err != nil {
			return err
		}
	}
	return nil
}

// write writes w.page.words as page number, and notes its entry. A page without content is
// only noted, unless it is the root.
func (w *saver) write(number int64) error {
	if number != w.tree.root() && !slices.ContainsFunc(w.page.words[:], func(word uint64) bool { return word != 0 }) {
		w.next[number] = 0
		return nil
	}
	place := otherPlace(w.committed[number])
	w.next[number] = entry(w.generation, place)
	w.page.generation, w.page.kind, w.page.number, w.page.layout = w.generation, w.tree.kind(number), number, w.tree.layout
	w.page.encode(w.buffer[:])
	return w.put(number, place)
}

// put writes the buffer to a place.
func (w *saver) put(number int64, place uint64) error {
	if _, err := w.dev.WriteAt(w.buffer[:], offset(number, place)); err != nil {
		return fmt.Errorf("write page %d at %#x: %w", number, offset(number, place), err)
	}
	return nil
}

// eachDirty calls f for the dirty pages of [first, end), ascending.
func (w *saver) eachDirty(first, end int64, f func(number int64)) {
	for at := first; at < end; {
		n, dirty := w.dirty.run(at, end)
		for number := at; dirty && number < at+n; number++ {
			f(number)
		}
		at += n
	}
}
