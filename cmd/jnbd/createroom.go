package main

import (
	"errors"
	"fmt"
	"io/fs"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
)

// fit settles the disk's size, and makes room for an internal journal. It refuses what
// would overwrite data or hide a part of it.
// Reading all of a large tail takes a while: step is told, and ends it with an error.
func (plan *createPlan) fit(s *store, undo *undoList, step stepFunc) (diskBytes int64, err error) {
	backingBytes := s.backing.Size()
	diskBytes = plan.diskBytes
	if plan.placement == jsuper.Beside {
		if diskBytes == 0 {
			diskBytes = backingBytes
		}
		if diskBytes != backingBytes {
			return 0, fmt.Errorf("disk %s is %d bytes, not --size %d: leave --size away to adopt it as it is", plan.disk, backingBytes, diskBytes)
		}
		if diskBytes == 0 {
			return 0, fmt.Errorf("disk %s is empty: remove it and give --size to make one", plan.disk)
		}
		if err := plan.refuseInternalJournal(s.backing); err != nil {
			return 0, err
		}
		if !plan.makeJournal {
			err = plan.adoptJournalDevice(s.journal)
		}
		return diskBytes, err
	}
	journalBytes := journal.JournalSize(plan.format)

	if err := plan.refuseInternalJournal(s.backing); err != nil {
		return 0, err
	}
	if !plan.blockDevice && (diskBytes == 0 || diskBytes == backingBytes) {
		return backingBytes, growForJournal(s.backing, journalBytes, undo)
	}
	switch {
	case diskBytes > 0 && roundUp(diskBytes, sizeLine) <= backingBytes-journalBytes:
		return diskBytes, nil // --size says that what lies beyond is free
	case diskBytes > 0:
		return 0, fmt.Errorf("disk %s has %d bytes, too few for --size %d and a journal of %s: the largest --size is %d",
			plan.disk, backingBytes, diskBytes, formatSize(journalBytes), plan.largestDisk(backingBytes))
	case plan.format.DiskBytes == 0:
		return 0, fmt.Errorf("disk %s has only %d bytes, too few for a journal of %s: use --journal PATH or a smaller --journal-size",
			plan.disk, backingBytes, formatSize(journalBytes))
	}
	diskBytes = plan.format.DiskBytes
	if err := requireZeros(s.backing, diskBytes, backingBytes-diskBytes, step); err != nil {
		return 0, fmt.Errorf("disk %s: its last %s may be in use (%w): give --size of at most %d if they are free, or put the journal elsewhere with --journal PATH",
			plan.disk, formatSize(journalBytes), err, diskBytes)
	}
	return diskBytes, nil
}

// refuseInternalJournal keeps a journal in the backing's tail from being overwritten,
// unless the disk was closed: then nothing is in it.
func (plan *createPlan) refuseInternalJournal(backing *disk.File) error {
	diskPath := plan.disk
	super, err := jsuper.Probe(backing, jsuper.Internal)
	switch {
	case errors.Is(err, jsuper.ErrNoJournal) && (plan.makeDisk || plan.acceptBacking):
		return nil
	case errors.Is(err, jsuper.ErrNoJournal):
		return refuseResized(backing, diskPath)
	case errors.Is(err, disk.ErrOutOfRange):
		return nil // too small to hold one
	case errors.Is(err, jsuper.ErrChanged), errors.Is(err, jsuper.ErrShrunk):
		return fmt.Errorf("disk %s: %w", diskPath, err)
	case err != nil:
		return fmt.Errorf("disk %s has something like a journal in its tail, which can't be read: %w; if nobody needs it, zero the last 8 KiB of the disk and give --accept-backing", diskPath, err)
	case super.State == jsuper.Closed:
		return nil
	}
	return fmt.Errorf("disk %s has a journal in its tail already: 'jnbd serve %s' uses it; to start over, run 'jnbd close %s' first: %w",
		diskPath, diskPath, diskPath, fs.ErrExist)
}

// growForJournal makes an image file longer by its journal.
func growForJournal(backing *disk.File, journalBytes int64, undo *undoList) error {
	before := backing.Size()
	undo.add(func() error { return backing.Truncate(before) })
	if err := backing.Truncate(roundUp(before, sizeLine) + journalBytes); err != nil {
		return fmt.Errorf("make room for the journal: %w", err)
	}
	return nil
}

// adoptJournalDevice checks that a block device given as --journal is free. Mode data makes
// all of it the log; the others leave what is behind the log to spare slots.
func (plan *createPlan) adoptJournalDevice(device *disk.File) error {
	bytes := device.Size() &^ (sizeLine - 1)
	if bytes < plan.format.JournalBytes {
		return fmt.Errorf("--journal %s has only %d bytes, too few for a journal of %s: want at least %s, and --journal-size to say so",
			plan.journal, device.Size(), formatSize(plan.format.JournalBytes), formatSize(journal.MinJournalBytes))
	}
	if plan.format.Mode == jsuper.Data {
		plan.format.JournalBytes = bytes
	}
	const label = 64 << 10 // file systems, partition tables and our superblock leave a mark here
	if err := requireZeros(device, 0, label, nil); err != nil {
		return fmt.Errorf("--journal %s is in use (%w): if nobody needs what it holds, wipe it with 'blkdiscard -z %s' first", plan.journal, err, plan.journal)
	}
	return nil
}

// stepFunc is called now and then with how much of a long work is done. Its error ends it.
type stepFunc func(done, total int64) error

// requireZeros reads [off, off+n), and fails when a byte is not zero. step may be nil.
func requireZeros(device disk.Device, off, n int64, step stepFunc) error {
	buf := make([]byte, 1<<20)
	for end := off + n; off < end; {
		if step != nil {
			if err := step(n-(end-off), n); err != nil {
				return err
			}
		}
		piece := buf[:min(int64(len(buf)), end-off)]
		if _, err := device.ReadAt(piece, off); err != nil {
			return err
		}
		for i, b := range piece {
			if b != 0 {
				return &nonZeroError{off + int64(i)}
			}
		}
		off += int64(len(piece))
	}
	return nil
}

// nonZeroError says where requireZeros found something else.
type nonZeroError struct{ offset int64 }

func (e *nonZeroError) Error() string { return fmt.Sprintf("data at byte %d", e.offset) }

func roundUp(n, line int64) int64 { return (n + line - 1) / line * line }
