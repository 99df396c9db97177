package journal

import (
	"fmt"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// logStart is where the log begins on a journal of its own, behind the superblock.
const logStart = 64 << 10

// Format makes a journal for a backing: a log written full of zeros, so that no later write
// has to allocate, then the superblock. Homes are not touched: what the backing holds is
// what the disk holds. With jsuper.Internal the journal takes the last JournalBytes of the
// backing. Everything is durable on return; after an error there is no journal.
func Format(p Parts, opt FormatOptions) (*jsuper.Superblock, error) {
	if _, err := newRoutes(opt.Mode); err != nil {
		return nil, err
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
	var room int64
	switch p.Placement {
	case jsuper.Beside:
		sb.LogOffset = logStart
		room = min(opt.JournalBytes, p.Journal.Size()) - logStart
	case jsuper.Internal:
		end := p.Journal.Size() - jsuper.ReservedBytes
		sb.LogOffset = alignUp(max(opt.DiskBytes, p.Journal.Size()-opt.JournalBytes), 4096)
		room = end - sb.LogOffset
	default:
		return nil, fmt.Errorf("format: placement %d unknown", p.Placement)
	}
	if opt.DiskBytes < 1 || opt.DiskBytes > p.Backing.Size() {
		return nil, fmt.Errorf("format: disk of %d bytes on a backing of %d", opt.DiskBytes, p.Backing.Size())
	}
	if room < wal.MinLogBytes {
		return nil, fmt.Errorf("format: %d bytes are left for the log, want at least %d", max(room, 0), int64(wal.MinLogBytes))
	}
	// The log begins as if after the disk itself: the first start frame names it, so another
	// disk's log does not follow.
	sb.TailEpoch, sb.TailSeq = sb.DiskUUID, 1
	sb.SegmentBytes = wal.SegmentBytesFor(room)
	sb.LogBytes = room / sb.SegmentBytes * sb.SegmentBytes

	// An older journal's superblock must not outlive its log.
	store := jsuper.NewStore(p.Journal, p.Placement)
	if err := store.Wipe(); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	if err := wal.Format(disk.Region(p.Journal, sb.LogOffset, sb.LogBytes), opt.Progress); err != nil {
		return nil, fmt.Errorf("format: %w", err)
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

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
