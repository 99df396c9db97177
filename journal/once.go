package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync/atomic"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/ordered"
	"jnbd/wal"
)

// once is the write-once side of a disk: bulk data goes out once, to its home if that is
// empty, else to a spare slot; the log gets only a MAP record with its checksum.
//
// Rules that hold the two sides together:
//
//   - A block's bytes are the overlay's where it has an extent, else those of its base. Both
//     change together, under overlay.mu, in the order of the log.
//   - What a MAP or HOME record speaks of is written before the record is appended, and
//     flushed with it, side by side. Recovery checks the checksums of the records that no
//     flush is known to have covered, and cuts at the first that fails.
//   - A place that a record gave up is written again only when the log itself proves that
//     the record is durable (wal.Stats.RecordedUpTo): else recovery would check, and miss,
//     bytes that were replaced rightfully.
type once struct {
	state    *ordered.State
	store    *countedWrites // the stored state
	spare    disk.Device    // the spare area, to read
	slots    *slots         // and to write
	together bool           // one flush covers log, spare and homes

	generation uint64      // guarded by checkpointMu; of the stored state in the superblock
	unsaved    bool        // guarded by checkpointMu; a checkpoint has changed bases, and no superblock tells it yet
	direct     atomic.Bool // the last bulk write went past the page cache; a hint
	homeDirty  atomic.Bool // a home was written in place since the last flush of the backing began

	// fresh are the ranges that were written once since the last flush, with the positions
	// of their records: after poison their bytes may be gone.
	fresh overlay

	homeBytes  atomic.Uint64 // written in place
	spareBytes atomic.Uint64
}

const blockBytes = ordered.BlockBytes

// layoutOf is the write-once side's layout in a superblock.
func layoutOf(sb *jsuper.Superblock) ordered.Layout {
	return ordered.Layout{Blocks: blocksOf(sb.DiskBytes), Slots: sb.SpareBytes / blockBytes}
}

// blocksOf is how many blocks n bytes touch.
func blocksOf(n int64) int64 { return (n + blockBytes - 1) / blockBytes }

// loadOnce reads the write-once side of a disk that has one. It is in replay.
func loadOnce(p Parts, sb *jsuper.Superblock) (*once, error) {
	if sb.StateOffset == 0 {
		return nil, nil
	}
	l := layoutOf(sb)
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("superblock: %w: %w", err, jsuper.ErrCorrupt)
	}
	size := p.Journal.Size()
	for _, r := range []struct {
		what   string
		off, n int64
	}{{"write-once state", sb.StateOffset, ordered.StateBytes(l)}, {"spare area", sb.SpareOffset, sb.SpareBytes}} {
		if err := disk.CheckRange(r.off, r.n, size); err != nil {
			return nil, fmt.Errorf("%s: %w: the journal was truncated: %w", r.what, err, jsuper.ErrCorrupt)
		}
	}
	o := &once{
		store:      &countedWrites{Device: disk.Region(p.Journal, sb.StateOffset, ordered.StateBytes(l))},
		spare:      disk.Region(p.Journal, sb.SpareOffset, sb.SpareBytes),
		together:   p.Placement == jsuper.Internal,
		generation: sb.StateGeneration,
	}
	var err error
	if o.state, err = ordered.Load(o.store, l, sb.StateGeneration); err != nil {
		return nil, err
	}
	return o, nil
}

// applyLocked is what a record does to overlay and bases. The caller holds overlay.mu. Live MAP
// records are applied by their reservation instead.
func (d *Disk) applyLocked(e *extent) {
	var room [3]extent
	for _, c := range d.ownerChanges(room[:0], e) {
		d.overlay.changeLocked(c)
	}
	d.changeBases(e)
}

// ownerChanges appends to dst what a record does to the overlay.
func (d *Disk) ownerChanges(dst []extent, e *extent) []extent {
	switch {
	case d.once == nil || e.state == logged || e.state == zeroKept:
		return append(dst, *e)
	case e.state == broughtHome:
		return dst
	case e.state != zeroed:
		return append(dst, extent{off: e.off, end: e.end, state: disowned})
	}
	// Whole blocks become absent; what is left at the edges is zeros in the log's order.
	first, last := d.wholeBlocks(e.off, e.end)
	if first >= last {
		return append(dst, *e)
	}
	dst = append(dst, extent{off: e.off, end: e.end, state: disowned})
	if from := first * blockBytes; e.off < from {
		dst = append(dst, extent{off: e.off, end: from, pos: e.pos, state: zeroed})
	}
	if to := min(last*blockBytes, d.size); to < e.end {
		dst = append(dst, extent{off: to, end: e.end, pos: e.pos, state: zeroed})
	}
	return dst
}

// changeBases is what a record does to the bases, on which the overlay has no influence.
func (d *Disk) changeBases(e *extent) {
	if d.once == nil {
		return
	}
	first, blocks := e.off/blockBytes, (e.end-e.off)/blockBytes
	switch e.state {
	case mappedSpare:
		d.once.state.Map(first, blocks, e.slot, e.pos)
	case mappedHome, broughtHome:
		d.once.state.MapHome(first, blocks, e.pos)
	case zeroed:
		if first, last := d.wholeBlocks(e.off, e.end); first < last {
			d.once.state.Drop(first, last-first, e.pos)
		}
	}
}

// wholeBlocks are the blocks that lie wholly in [off, end). The disk's last block is whole
// when all that exists of it is in there.
func (d *Disk) wholeBlocks(off, end int64) (first, last int64) {
	first = blocksOf(off)
	if last = end / blockBytes; end == d.size {
		last = blocksOf(end)
	}
	return first, last
}

// verifyBase checks that the bytes a MAP record speaks of are there.
func (d *Disk) verifyBase(e *extent) error {
	crc := uint32(0)
	err := d.readBase(e, func(p []byte, _ disk.Device, _ int64) error {
		crc = crc32.Update(crc, castagnoli, p)
		return nil
	})
	if err != nil {
		return err
	}
	if crc != e.crc {
		return fmt.Errorf("blocks written once at %d: checksum %08x, want %08x: %w", e.off, crc, e.crc, wal.ErrCorrupt)
	}
	return nil
}

// readBase reads the bytes that a MAP record speaks of, in pieces of at most homeRun, and gives
// visit each with its place.
func (d *Disk) readBase(e *extent, visit func(p []byte, dev disk.Device, off int64) error) error {
	dev, off := d.home, e.off
	if e.state == mappedSpare {
		dev, off = d.once.spare, e.slot*blockBytes
	}
	buf := make([]byte, min(e.end-e.off, homeRun))
	for n := e.end - e.off; n > 0; {
		p := buf[:min(n, int64(len(buf)))]
		if _, err := dev.ReadAt(p, off); err != nil {
			return fmt.Errorf("read what was written once at %d: %w", e.off, err)
		}
		if err := visit(p, dev, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// freshCovers reports whether part of [off, end) was written once and not flushed since.
func (o *once) freshCovers(off, end, durable int64) bool {
	for _, e := range o.fresh.lookup(nil, off, end) {
		if e.pos >= durable {
			return true
		}
	}
	return false
}

// flushBeside is what the log flushes beside itself: homes, if one was written in place.
func (d *Disk) flushBeside() func() error {
	if !d.once.homeDirty.Swap(false) {
		return nil
	}
	return d.flushHomes
}

func (d *Disk) flushHomes() error {
	if err := d.home.Flush(); err != nil {
		return fmt.Errorf("flush the backing: %w", err)
	}
	return nil
}

// reclaim makes places usable again that durable changes gave up. With giveBack the host gets
// the space of spare slots among them; under load they are kept, because the next overwrite
// would have to allocate them again. The caller holds checkpointMu.
//
// It does nothing as long as a checkpoint waits for the host to store the bases it has changed:
// the superblock still names the slots that these gave up.
func (d *Disk) reclaim(giveBack bool) error {
	o := d.once
	if o.unsaved {
		return nil
	}
	recorded := d.recordedUpTo()
	o.fresh.forget(d.log.Stats().DurableUpTo, nil)
	if !o.state.Quarantined(recorded) {
		return nil
	}
	batch := o.state.TakeQuarantine(recorded)
	d.gate.wait()
	for _, r := range batch.Slots() {
		if !giveBack {
			break
		}
		if err := o.slots.giveBack(r); err != nil {
			return err
		}
	}
	o.state.Release(batch)
	return nil
}

// sweep is the write-once side's share of the background work: places that durable changes
// gave up become usable again, and when the disk is idle some displaced blocks go home. What became
// free in spare under load is the host's again when nothing is displaced any more.
func (d *Disk) sweep(idle bool) error {
	d.checkpointMu.Lock()
	err := d.reclaim(idle)
	d.checkpointMu.Unlock()
	if err != nil {
		return d.poisonWith(err)
	}
	if !idle || d.closing.Load() {
		return nil
	}
	if err := d.homeIdle(); err != nil {
		return err
	}
	return d.giveBackIdle()
}

// giveBackIdle gives the host the space of spare slots, once none is in use.
func (d *Disk) giveBackIdle() error {
	return d.whileIdle(func(func() bool) (bool, error) {
		d.checkpointMu.Lock()
		defer d.checkpointMu.Unlock()
		if d.poison.Load() != nil || d.once.state.Stats().SpareUsed > 0 {
			return false, nil
		}
		given, err := d.once.slots.giveBackStep(d.once.state)
		if err != nil {
			return false, d.poisonWith(err)
		}
		return given, nil
	})
}

// makeRoom reclaims places that are in quarantine only because nobody asked for a barrier.
// It reports whether there was anything.
func (d *Disk) makeRoom() bool {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	if d.writable() != nil || !d.once.state.Quarantined(math.MaxInt64) {
		return false
	}
	err := d.reclaim(false)
	if err == nil {
		_, err = d.log.Flush()
	}
	if err == nil {
		err = d.recordDurable(d.log.Stats().DurableUpTo)
	}
	if err == nil {
		err = d.reclaim(false)
	}
	if err != nil && !errors.Is(err, wal.ErrFull) {
		d.poisonWith(fmt.Errorf("make room in spare: %w", err))
	}
	return err == nil
}

// recordedUpTo is the log position up to which a recovery knows that the log is durable.
func (d *Disk) recordedUpTo() int64 {
	return max(d.log.Stats().RecordedUpTo, d.superDurable.Load())
}
