package journal

import (
	"fmt"

	"jnbd/disk"
	"jnbd/ordered"
)

// Bringing an extent home on a disk with a write-once side. A home holds a block's base or
// nothing that counts, so whole blocks are what can be brought there:
//
//   - where the base is at home, the extent's bytes are written over it, as in mode data;
//   - where whole blocks are logged, they fill their empty homes;
//   - a block that is logged in parts is put together from its base and the log.
//
// Its home becomes its base when it is flushed (checkpoint.go, step 4). A block that a
// direct write moves meanwhile has left the overlay by then, and stays where that put it.

// bring adds e to what goes home.
func (w *homeWriter) bring(e *extent) error {
	if w.d.once == nil {
		return w.add(e)
	}
	w.steal(e.off/blockBytes, blocksOf(e.end))
	// A direct write may have been applied before its home could be stolen: what it replaced
	// must not go over it. From here on none can write these homes.
	for _, still := range w.d.overlay.lookup(nil, e.off, e.end) {
		if still.pos >= w.tail {
			continue
		}
		if err := w.bringPart(&still); err != nil {
			return err
		}
	}
	return nil
}

func (w *homeWriter) bringPart(e *extent) error {
	w.bases = w.d.baseExtents(w.bases[:0], e.off, e.end)
	for i := range w.bases {
		b := &w.bases[i]
		part := e.cut(b.off, b.end)
		to := w.fill
		if b.state == atHome {
			to = w.add
		}
		if err := to(&part); err != nil {
			return err
		}
	}
	return nil
}

// steal takes homes [from, end) from direct writes, but for those that it has.
func (w *homeWriter) steal(from, end int64) {
	if n := len(w.stolen); n > 0 {
		from = max(from, w.stolen[n-1].Start+w.stolen[n-1].N)
	}
	if from >= end {
		return
	}
	w.d.once.state.Steal(from, end-from)
	if n := len(w.stolen); n > 0 && w.stolen[n-1].Start+w.stolen[n-1].N == from {
		w.stolen[n-1].N += end - from
		return
	}
	w.stolen = append(w.stolen, ordered.Run{Start: from, N: end - from})
}

// fill brings e to empty homes: its whole blocks as they are, others put together.
func (w *homeWriter) fill(e *extent) error {
	first, last := w.d.wholeBlocks(e.off, e.end)
	if first >= last {
		for b := e.off / blockBytes; b < blocksOf(e.end); b++ {
			if err := w.compose(b); err != nil {
				return err
			}
		}
		return nil
	}
	if e.off < first*blockBytes {
		if err := w.compose(first - 1); err != nil {
			return err
		}
	}
	whole := e.cut(first*blockBytes, min(last*blockBytes, w.d.size))
	if err := w.add(&whole); err != nil {
		return err
	}
	if last*blockBytes < e.end {
		return w.compose(last)
	}
	return nil
}

// compose puts block b together and adds it. Its parts follow each other, so once is enough.
func (w *homeWriter) compose(b int64) error {
	if w.composed == b {
		return nil
	}
	w.composed = b
	if err := w.flush(); err != nil {
		return err
	}
	d := w.d
	off := b * blockBytes
	end := min(off+blockBytes, d.size)
	var block [blockBytes]byte
	var room [8]extent
	for _, base := range d.baseExtents(room[:0], off, end) {
		if base.state == inSpare {
			if _, err := d.once.spare.ReadAt(block[base.off-off:base.end-off], base.pos); err != nil {
				return fmt.Errorf("read spare for block %d: %w", b, err)
			}
		}
	}
	for _, e := range d.overlay.lookup(room[:0], off, end) {
		if e.pos >= w.tail {
			continue // it stays in the overlay
		}
		part := block[e.off-off : e.end-off]
		clear(part)
		if e.state == logged {
			if err := d.readLogged(part, &e); err != nil {
				return err
			}
		}
	}
	if _, err := d.home.WriteAt(block[:end-off], off); err != nil {
		return fmt.Errorf("write block %d home: %w", b, err)
	}
	d.counters.homeBytes.Add(uint64(end - off))
	return nil
}

// tidy does what a checkpoint leaves for the write-once side: places that were given up are
// usable again, and homes of trimmed blocks go back to the host.
func (d *Disk) tidy() error {
	if d.once == nil {
		return nil
	}
	if err := d.reclaim(false); err != nil {
		return err
	}
	for _, r := range d.once.state.TakePunch(walkChunk) {
		off := r.Start * blockBytes
		err := disk.Zero(d.home, off, min(r.N*blockBytes, d.size-off), true)
		d.once.state.Unbusy(r.Start, r.N)
		if err != nil && !refusedSpace(err) { // close gives back what is left
			return fmt.Errorf("give back %d trimmed blocks at %d: %w", r.N, r.Start, err)
		}
	}
	return nil
}
