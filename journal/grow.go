package journal

import (
	"context"
	"errors"
	"fmt"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/ordered"
)

// How a disk grows, as part of Open, before it serves:
//
//  1. The log is brought home, and the superblock says that the disk is in use: from here on a
//     backing that is longer than the disk is no reason for anything.
//  2. The backing is made longer, durably. What it holds behind the old end is what the disk
//     will hold there: zeros, on a file.
//  3. The spare area grows in proportion, where it ends. The write-once state of the larger
//     disk is stored behind it and behind the old state, which stays as it is.
//  4. Both superblock slots say the new size and the new places. A crash before the first of
//     them leaves the old disk, a crash after it the new one.
//  5. The disk is opened anew. The place of the old state is given back to the host.
//
// Displaced blocks stay where they are: growing costs O(state), not O(data).

var (
	// ErrShrink is Open's answer to Options.Grow with less than the disk has.
	ErrShrink = errors.New("a disk can't shrink")
	// ErrGrowInternal is its answer when the journal lies where the disk would grow.
	ErrGrowInternal = errors.New("its journal is internal, at the end of the backing, where the disk would grow")
)

// grow makes the disk bytes long. The disk is closed on return, and must be opened anew.
func (d *Disk) grow(given Parts, bytes int64) error {
	switch {
	case given.Placement == jsuper.Internal:
		return ErrGrowInternal
	case bytes < d.size:
		return fmt.Errorf("%d bytes, it has %d: %w", bytes, d.size, ErrShrink)
	}
	if err := d.Checkpoint(context.Background(), nil); err != nil {
		return err
	}
	if d.once != nil && d.size%blockBytes != 0 {
		// The slot of a last block that is only part of one may hold anything behind its end.
		if err := d.bringAllHome(context.Background(), nil); err != nil {
			return err
		}
	}
	if err := d.log.Close(); err != nil {
		return err
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	if err := makeLonger(given.Backing, bytes); err != nil {
		return fmt.Errorf("make the backing longer: %w", err)
	}
	old, sb := d.super, d.super
	sb.DiskBytes = bytes
	if d.once != nil {
		if err := d.growOnce(&sb, given); err != nil {
			return err
		}
	}
	if given.Placement == jsuper.Beside {
		sb.DeviceBytes = given.Journal.Size()
	}
	var err error
	if sb.Fingerprint, err = jsuper.TakeFingerprint(disk.Region(given.Backing, 0, bytes)); err != nil {
		return err
	}
	if err := d.store.SaveBoth(&sb); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	if d.once == nil {
		return nil
	}
	// Where spare slots are now, they allocate again when they are used.
	if err := disk.Discard(given.Journal, old.StateOffset, ordered.StateBytes(layoutOf(&old))); err != nil {
		return fmt.Errorf("give back the old write-once state: %w", err)
	}
	return nil
}

// growOnce lays the write-once side of a larger disk out, and stores its state.
func (d *Disk) growOnce(sb *jsuper.Superblock, given Parts) error {
	old := &d.super
	oldEnd := old.StateOffset + ordered.StateBytes(layoutOf(old))
	place := func(spare int64) (end int64) {
		sb.SpareBytes, sb.SpareCap = spare, spare
		sb.StateOffset = alignUp(max(sb.SpareOffset+spare, oldEnd), blockBytes)
		return sb.StateOffset + ordered.StateBytes(layoutOf(sb))
	}
	share := float64(old.SpareBytes) / float64(old.DiskBytes)
	end := place(alignUp(max(old.SpareBytes, int64(share*float64(sb.DiskBytes))), blockBytes))
	if err := makeLonger(given.Journal, end); err != nil {
		// A device of fixed size: the spare area stays as it is, if the state fits at all.
		if end = place(old.SpareBytes); given.Journal.Size() < end {
			return fmt.Errorf("the journal has %d bytes, and needs %d for a larger disk: bring the disk home with jnbd close, and create a larger journal: %w",
				given.Journal.Size(), end, err)
		}
	}
	state := ordered.New(layoutOf(sb))
	d.copyBases(state)
	from := blocksOf(old.DiskBytes) * blockBytes
	if err := presentFrom(state, disk.Region(given.Backing, 0, sb.DiskBytes), from); err != nil {
		return err
	}
	return storeBases(state, sb, given)
}

// copyBases tells another state what this disk's knows. Nothing changes meanwhile.
func (d *Disk) copyBases(to *ordered.State) {
	const chunk = 1 << 20
	blocks := blocksOf(d.size)
	var pieces []ordered.Piece
	for at := int64(0); at < blocks; at += chunk {
		pieces = d.once.state.Lookup(pieces[:0], at, min(chunk, blocks-at))
		for _, p := range pieces {
			switch p.Where {
			case ordered.Home:
				to.SetPresent(p.Block, p.N)
			case ordered.Spare:
				to.Map(p.Block, p.N, p.Slot, 0)
			}
		}
	}
}

// makeLonger makes a device at least so long, durably. One that is, stays as it is.
func makeLonger(dev disk.Device, bytes int64) error {
	if dev.Size() >= bytes {
		return nil
	}
	file, ok := dev.(interface{ Truncate(size int64) error })
	if !ok {
		return fmt.Errorf("it has %d bytes, want %d, and can't be made longer", dev.Size(), bytes)
	}
	if err := file.Truncate(bytes); err != nil {
		return err
	}
	if all, ok := dev.(interface{ SyncAll() error }); ok {
		return all.SyncAll()
	}
	return dev.Flush()
}
