package ordered

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"jnbd/disk"
)

// The state comes back from its device:
//
//  1. The root: of its two places the one that holds the committed generation, which the
//     superblock names.
//  2. Level by level, the pages that the index names, each in the very place and of the very
//     generation that the index says. Anything else there is damage: the other place is never
//     a substitute.
//  3. Presence from the bits, the map from the slot table turned around.
//
// A page that the index does not name is all zero and is not read.

// readPages is how many pages one read spans: both places of each, 1 MiB.
const readPages = 128

// Load reads the state that was committed as generation; 0 is that of New. It is in replay:
// replay the log from the tail of the same superblock, then FinishReplay; and call Committed
// once that superblock is known to be durable, before the first Save. Load writes nothing.
func Load(dev disk.Device, l Layout, generation uint64) (*State, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("load write-once state: %w: %w", err, ErrCorrupt)
	}
	s := New(l)
	if generation == 0 {
		return s, nil
	}
	if have, want := dev.Size(), StateBytes(l); have < want {
		return nil, fmt.Errorf("load write-once state: room of %d bytes, want %d: %w", have, want, ErrCorrupt)
	}
	r := &loader{s: s, dev: dev, generation: generation}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("load write-once state, generation %d: %w", generation, err)
	}
	s.save.generation, s.save.unsure = generation, true
	return s, nil
}

// loader is one load on its way.
type loader struct {
	s          *State
	dev        disk.Device
	generation uint64
	buffer     []byte
	runs       []mapped // as the slot table has them, in the order of the slots
}

func (r *loader) load() error {
	t := &r.s.tree
	r.buffer = make([]byte, min(readPages, t.pages)*2*pageBytes)
	root, place, err := r.readRoot()
	if err != nil {
		return err
	}
	r.s.save.entries[t.root()] = entry(r.generation, place)
	r.accept(root)
	for level := len(t.levels) - 2; level >= 0; level-- {
		if err := r.readLevel(t.levels[level], t.levels[level+1]); err != nil {
			return err
		}
	}
	for _, w := range r.s.present {
		r.s.presentCount += int64(bits.OnesCount64(w))
	}
	return r.turnAround()
}

// readRoot is step 1.
func (r *loader) readRoot() (root *page, place uint64, err error) {
	number := r.s.tree.root()
	var found [2]*page
	var errs [2]error
	for place := range uint64(2) {
		b := r.buffer[:pageBytes]
		if _, err := r.dev.ReadAt(b, offset(number, place)); err != nil {
			return nil, 0, fmt.Errorf("read root at %#x: %w", offset(number, place), err)
		}
		found[place], errs[place] = r.decode(b, number, entry(r.generation, place))
	}
	switch {
	case errs[0] == nil && errs[1] == nil:
		return nil, 0, fmt.Errorf("two roots of the same generation: %w", ErrCorrupt)
	case errs[0] == nil:
		return found[0], 0, nil
	case errs[1] == nil:
		return found[1], 1, nil
	}
	return nil, 0, fmt.Errorf("no root of this generation: %w; %w", errs[0], errs[1])
}

// readLevel reads the pages [first, end) that the index names.
func (r *loader) readLevel(first, end int64) error {
	entries := r.s.save.entries
	for at := first; at < end; {
		if entries[at] == 0 {
			at++
			continue
		}
		stop := at + 1 // behind the last page of this read
		for next := stop; next < min(at+readPages, end); next++ {
			if entries[next] != 0 {
				stop = next + 1
			}
		}
		b := r.buffer[:(stop-at)*2*pageBytes]
		if _, err := r.dev.ReadAt(b, offset(at, 0)); err != nil {
			return fmt.Errorf("read pages %d to %d at %#x: %w", at, stop-1, offset(at, 0), err)
		}
		for number := at; number < stop; number++ {
			if entries[number] == 0 {
				continue
			}
			place := offset(number-at, entryPlace(entries[number]))
			p, err := r.decode(b[place:place+pageBytes], number, entries[number])
			if err != nil {
				return err
			}
			r.accept(p)
		}
		at = stop
	}
	return nil
}

// decode reads a page that must be the version that the entry names.
func (r *loader) decode(b []byte, number int64, e uint64) (*page, error) {
	p, err := decodePage(b)
	if err != nil {
		return nil, fmt.Errorf("page %d at %#x: %w", number, offset(number, entryPlace(e)), err)
	}
	wrong := func(what string, got, want any) (*page, error) {
		return nil, fmt.Errorf("page %d at %#x: %s %v, want %v: %w", number, offset(number, entryPlace(e)), what, got, want, ErrCorrupt)
	}
	switch {
	case p.layout != r.s.layout:
		return wrong("layout", p.layout, r.s.layout)
	case p.number != number:
		return wrong("number", p.number, number)
	case p.generation != entryGeneration(e):
		return wrong("generation", p.generation, entryGeneration(e))
	}
	return p, nil
}

// accept enters what a page says.
func (r *loader) accept(p *page) {
	switch p.kind {
	case kindBits:
		copy(r.s.present[p.number*wordsPerPage:], p.words[:])
	case kindSlots:
		slot := (p.number - r.s.tree.bitPages) * wordsPerPage
		for i, w := range &p.words {
			if w == 0 {
				continue
			}
			m := mapped{block: int64(w - 1), n: 1, slot: slot + int64(i)}
			if last := len(r.runs) - 1; last >= 0 {
				if b := &r.runs[last]; b.end() == m.block && b.slot+b.n == m.slot && b.n < maxRun {
					b.n++
					continue
				}
			}
			r.runs = append(r.runs, m)
		}
	case kindIndex:
		first, end := r.s.tree.children(p.number)
		copy(r.s.save.entries[first:end], p.words[:])
	}
}

// turnAround makes the map from the slot table, and asserts that no block is in two places.
func (r *loader) turnAround() error {
	slices.SortFunc(r.runs, func(a, b mapped) int { return cmp.Compare(a.block, b.block) })
	d := &r.s.displaced
	end := int64(0)
	for _, m := range r.runs {
		if m.block < end {
			return fmt.Errorf("block %d is in slot %d and in another one: %w", m.block, m.slot, ErrCorrupt)
		}
		end = m.end()
		if !r.s.present.all(m.block, end, false) {
			return fmt.Errorf("blocks [%d,+%d) are in slots [%d,+%d), and some of them at home: %w", m.block, m.n, m.slot, m.n, ErrCorrupt)
		}
		d.tree.Load(m.block, pack(m.n, m.slot))
		d.blocks += m.n
	}
	return nil
}
