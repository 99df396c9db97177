package journal

import (
	"context"
	"errors"
	"fmt"

	"jnbd/disk"
	"jnbd/wal"
)

// Homing brings displaced blocks back, in block order, batch by batch:
//
//  1. Take displaced runs whose homes are nobody's.
//  2. Copy their slots home, and flush the backing.
//  3. Append a HOME record for what is still displaced to those slots: a client may have
//     written it again meanwhile, and then the copy counts for nothing.
//
// A crash at any point leaves either base: both hold the same bytes until step 3, and the
// slots are kept until the record is durable. So it can stop anywhere, and go on from what is
// displaced then. It happens whole when the disk is closed (P8), and a little at a time while
// nobody changes the disk: a client that comes back stops it within one piece of 1 MiB, and
// never waits for one of its flushes or for more than recordRuns of its records.

const (
	// idleBatch is how much goes home between two flushes while the disk is idle. It bounds
	// what the medium has to do before it can serve a client that comes back.
	idleBatch = 4 << 20
	// closeBatch is the same when the disk is being closed, and nobody comes.
	closeBatch = 32 << 20
	// recordRuns is how many runs are looked at under one hold of the lock that gives the order.
	recordRuns = 64
)

// homeIdle brings displaced blocks home while nobody changes the disk.
func (d *Disk) homeIdle() error {
	return d.whileIdle(func(changed func() bool) (bool, error) {
		moved, err := d.homeBatch(idleBatch, changed)
		if errors.Is(err, wal.ErrFull) || errors.Is(err, ErrHostFull) {
			return false, nil
		}
		return moved > 0, err
	})
}

// homeBatch brings home about most bytes, none of them if stop, where given, says so on the
// way. moved is how much it was.
func (d *Disk) homeBatch(most int64, stop func() bool) (moved int64, err error) {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	if d.poison.Load() != nil {
		return 0, d.poisoned()
	}
	moved, err = d.homeRuns(most, stop)
	if err != nil && !errors.Is(err, wal.ErrFull) && !errors.Is(err, ErrHostFull) {
		err = d.poisonWith(fmt.Errorf("bring displaced blocks home: %w", err))
	}
	return moved, err
}

func (d *Disk) homeRuns(most int64, stop func() bool) (moved int64, err error) {
	state := d.once.state
	var runs []extent
	defer func() {
		for i := range runs {
			state.Unbusy(runs[i].off/blockBytes, blocksOf(runs[i].end)-runs[i].off/blockBytes)
		}
	}()
	var buf []byte // made for the first run: often there is none
	for from := int64(0); moved < most; {
		if stop != nil && stop() {
			return 0, nil // what was copied counts for nothing
		}
		p, ok := state.NextDisplaced(from, homeRun/blockBytes)
		if !ok {
			break
		}
		from = p.Block + p.N
		e := extent{off: p.Block * blockBytes, end: min(from*blockBytes, d.size), slot: p.Slot}
		runs = append(runs, e)
		if buf == nil {
			buf = make([]byte, homeRun)
		}
		b := buf[:e.end-e.off]
		if _, err := d.once.spare.ReadAt(b, p.Slot*blockBytes); err != nil {
			return 0, fmt.Errorf("spare slot %d: %w", p.Slot, err)
		}
		if _, err := d.home.WriteAt(b, e.off); err != nil {
			return 0, asHostFull(err)
		}
		moved += e.end - e.off
	}
	if moved == 0 {
		return 0, nil
	}
	if err := d.home.Flush(); err != nil {
		return 0, fmt.Errorf("flush the backing: %w", err)
	}
	d.counters.homeBytes.Add(uint64(moved))
	for rest := runs; len(rest) > 0; {
		n := min(len(rest), recordRuns)
		if err := d.recordHome(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return moved, nil
}

// recordHome is step 3.
func (d *Disk) recordHome(runs []extent) error {
	d.appendMu.Lock()
	defer d.appendMu.Unlock()
	p := &pending{}
	for i := range runs {
		// Nothing moves a base while appendMu is held.
		for _, b := range d.baseExtents(nil, runs[i].off, runs[i].end) {
			if b.state == inSpare && b.pos-b.off == runs[i].slot*blockBytes-runs[i].off {
				p.recs = append(p.recs, wal.Record{Kind: KindHome, A: uint64(b.off), B: uint64(b.end - b.off)})
			}
		}
	}
	if len(p.recs) == 0 {
		return nil
	}
	pos := make([]int64, len(p.recs))
	if err := d.log.Append(p.recs, pos); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	d.overlay.mu.Lock()
	defer d.overlay.mu.Unlock()
	for i := range p.recs {
		e := appended(&p.recs[i], pos[i])
		d.applyLocked(&e)
	}
	return nil
}

// bringAllHome empties spare and log, for a close that leaves a raw image.
func (d *Disk) bringAllHome(ctx context.Context, progress func(done, total int64)) error {
	total := d.once.state.Stats().Displaced * blockBytes
	done := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d bytes are still displaced: %w", d.once.state.Stats().Displaced*blockBytes, err)
		}
		moved, err := d.homeBatch(closeBatch, nil)
		if err != nil && !errors.Is(err, wal.ErrFull) {
			return err
		}
		done += moved
		if progress != nil {
			progress(min(done, total), total)
		}
		// The records go with the tail, and the stored bases say what they said.
		if err := d.Checkpoint(ctx, nil); err != nil {
			return err
		}
		if err := d.settle(); err != nil {
			return err
		}
		if d.once.state.Stats().Displaced == 0 {
			break
		}
	}
	return d.clearAbsent()
}

// settle makes everything that is in quarantine usable. No client changes anything any more.
func (d *Disk) settle() error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	err := d.recordDurable(d.log.Stats().DurableUpTo)
	if err == nil {
		err = d.reclaim(true)
	}
	if err != nil {
		return d.poisonWith(fmt.Errorf("bring displaced blocks home: %w", err))
	}
	return nil
}

// clearAbsent makes absent homes read as zeros in the raw image: they may hold bytes of
// writes that were never committed, or that were trimmed (I11).
func (d *Disk) clearAbsent() error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	for from := int64(0); ; {
		runs := d.once.state.AbsentRuns(from, walkChunk)
		for _, r := range runs {
			off := r.Start * blockBytes
			err := disk.Zero(d.home, off, min(r.N*blockBytes, d.size-off), true)
			if refusedSpace(err) {
				return asHostFull(err)
			}
			if err != nil {
				return d.poisonWith(fmt.Errorf("clear %d absent blocks at %d: %w", r.N, off, err))
			}
			from = r.Start + r.N
		}
		if len(runs) < walkChunk {
			break
		}
	}
	if err := d.home.Flush(); err != nil {
		return d.poisonWith(fmt.Errorf("flush the backing: %w", err))
	}
	// Nothing is in spare, and nobody writes any more: the host gets all of it back.
	if err := disk.Discard(d.once.spare, 0, d.once.spare.Size()); err != nil {
		return d.poisonWith(fmt.Errorf("give back the spare area: %w", err))
	}
	return nil
}
