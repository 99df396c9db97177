package journal

import (
	"fmt"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/ordered"
	"jnbd/wal"
)

// logStart is where the log begins on a journal of its own, behind the superblock.
const logStart = 64 << 10

// spareBytes is the room for spare slots that opt asks for.
func (opt *FormatOptions) spareBytes() int64 {
	spare := opt.SpareBytes
	switch {
	case opt.Mode == jsuper.Data:
		return 0
	case spare == 0 && opt.Mode == jsuper.Ordered:
		spare = opt.DiskBytes + opt.DiskBytes/(shortShare-1) // for runs of either kind (spare.go)
	case spare == 0:
		spare = opt.DiskBytes
	}
	return alignUp(max(spare, blockBytes), blockBytes)
}

// JournalSize is how long a journal with those options is: superblock, log, the stored state
// of the write-once side, and the spare area, which is sparse at first.
func JournalSize(opt FormatOptions) int64 {
	size := alignUp(opt.JournalBytes, blockBytes)
	if opt.Mode != jsuper.Data {
		spare := opt.spareBytes()
		size += ordered.StateBytes(ordered.Layout{Blocks: blocksOf(opt.DiskBytes), Slots: spare / blockBytes}) + spare
	}
	return size
}

// Format makes a journal for a backing: a log written full of zeros, so that no later write
// has to allocate, the spare area too if that is wished, the bases of a disk that is wholly
// at home, then the superblock. Homes are not touched: what the backing holds is what the
// disk holds. With jsuper.Internal the journal takes the end of the backing, JournalSize of
// it. Everything is durable on return; after an error there is no journal.
func Format(p Parts, opt FormatOptions) (*jsuper.Superblock, error) {
	if _, err := newRoutes(opt.Mode); err != nil {
		return nil, err
	}
	if opt.DiskBytes < 1 || opt.DiskBytes > p.Backing.Size() {
		return nil, fmt.Errorf("format: disk of %d bytes on a backing of %d", opt.DiskBytes, p.Backing.Size())
	}
	sb := &jsuper.Superblock{
		DiskUUID:  jsuper.NewUUID(),
		Node:      opt.Node,
		Mode:      opt.Mode,
		State:     jsuper.Closed, // nothing is logged: the backing is the disk
		Placement: p.Placement,
		CreatedAt: time.Now(),
		UpdatedAt: time.Now(),
		DiskBytes: opt.DiskBytes,
	}
	err := layOut(sb, p, opt)
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	sb.DeviceBytes = p.Journal.Size()
	if sb.BackingID, err = identity(p.Backing); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	// The log begins as if after the disk itself: the first start frame names it, so another
	// disk's log does not follow.
	sb.TailEpoch, sb.TailSeq = sb.DiskUUID, 1

	// An older journal's superblock must not outlive its log.
	store := jsuper.NewStore(p.Journal, p.Placement)
	if err := store.Wipe(); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	total := sb.LogBytes
	if opt.WriteSpare {
		total += sb.SpareBytes
	}
	if err := wal.Format(disk.Region(p.Journal, sb.LogOffset, sb.LogBytes), opt.progressFrom(0, total)); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	if opt.WriteSpare && sb.StateOffset != 0 {
		sb.Compat |= jsuper.FeatureKeepSpare
		if err := writeSpare(disk.Region(p.Journal, sb.SpareOffset, sb.SpareBytes), opt.progressFrom(sb.LogBytes, total)); err != nil {
			return nil, fmt.Errorf("format: %w", err)
		}
	}
	if sb.StateOffset != 0 {
		if err := formatBases(sb, p); err != nil {
			return nil, fmt.Errorf("format: %w", err)
		}
	}
	fp, err := jsuper.TakeFingerprint(disk.Region(p.Backing, 0, opt.DiskBytes))
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	sb.Fingerprint = fp
	if err := store.Save(sb); err != nil {
		return nil, fmt.Errorf("format: superblock: %w", err)
	}
	return sb, nil
}

// progressFrom is how a part of Format that comes after so many of total bytes tells of its progress.
func (opt *FormatOptions) progressFrom(before, total int64) func(done, ofPart int64) {
	if opt.Progress == nil {
		return nil
	}
	return func(done, _ int64) { opt.Progress(before+done, total) }
}

// layOut decides what lies where on the journal: the log, the stored state, the spare area.
func layOut(sb *jsuper.Superblock, p Parts, opt FormatOptions) error {
	end := p.Journal.Size()
	switch p.Placement {
	case jsuper.Beside:
		sb.LogOffset = logStart
	case jsuper.Internal:
		end -= jsuper.ReservedBytes
		sb.LogOffset = alignUp(max(opt.DiskBytes, p.Journal.Size()-JournalSize(opt)), blockBytes)
		opt.JournalBytes -= jsuper.ReservedBytes
	default:
		return fmt.Errorf("placement %d unknown", p.Placement)
	}
	room := min(end-sb.LogOffset, opt.JournalBytes)
	if p.Placement == jsuper.Beside {
		room = min(end, opt.JournalBytes) - logStart
	}
	if room < wal.MinLogBytes {
		return fmt.Errorf("%d bytes are left for the log, want at least %d", max(room, 0), int64(wal.MinLogBytes))
	}
	sb.SegmentBytes = wal.SegmentBytesFor(room)
	sb.LogBytes = room / sb.SegmentBytes * sb.SegmentBytes
	if opt.Mode == jsuper.Data {
		return nil
	}
	return layOutOnce(sb, sb.LogOffset+sb.LogBytes, end, opt.spareBytes())
}

// layOutOnce puts the write-once side between from and end.
func layOutOnce(sb *jsuper.Superblock, from, end, spare int64) error {
	sb.StateOffset = alignUp(from, blockBytes)
	for {
		sb.SpareBytes, sb.SpareCap = spare, spare
		sb.SpareOffset = sb.StateOffset + ordered.StateBytes(layoutOf(sb))
		left := end - sb.SpareOffset - spare
		if left >= 0 {
			return nil
		}
		// A device of fixed size: what is left is the spare area.
		if spare += left / blockBytes * blockBytes; spare < blockBytes {
			return fmt.Errorf("no room for mode %s behind the log: make the journal %d bytes larger, or choose mode data", sb.Mode, -left)
		}
		spare -= blockBytes
	}
}

// formatBases stores the bases of a disk that is wholly at home: present is what the backing
// has allocated, the rest reads as zeros.
func formatBases(sb *jsuper.Superblock, p Parts) error {
	state := ordered.New(layoutOf(sb))
	if err := presentFrom(state, disk.Region(p.Backing, 0, sb.DiskBytes), 0); err != nil {
		return err
	}
	return storeBases(state, sb, p)
}

// storeBases stores a state for the first time, where the superblock will say.
func storeBases(state *ordered.State, sb *jsuper.Superblock, p Parts) error {
	if err := state.FinishReplay(); err != nil {
		return err
	}
	store := disk.Region(p.Journal, sb.StateOffset, ordered.StateBytes(layoutOf(sb)))
	// Pages of an older journal must not be taken for this one's.
	if err := disk.Zero(store, 0, store.Size(), true); err != nil {
		return err
	}
	sb.StateGeneration = 1
	if err := state.Save(store, sb.StateGeneration); err != nil {
		return err
	}
	return store.Flush()
}

// presentFrom finds out which homes hold something, from an offset on, which is a block's.
func presentFrom(state *ordered.State, home disk.Device, from int64) error {
	if from >= home.Size() {
		return nil
	}
	return disk.Extents(home, from, home.Size()-from, func(off, n int64, hole bool) bool {
		if !hole {
			state.SetPresent(off/blockBytes, blocksOf(off+n)-off/blockBytes)
		}
		return true
	})
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
