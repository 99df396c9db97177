package main

import (
	"fmt"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// A disk with an internal journal that was resized by others has no superblock at its end.
// Without a closer look it would pass for a disk that never had a journal, and a new one
// would bury what the old one holds:
//
//  1. A disk that grew, or lost less than the superblock, still has it: jsuper.FindMoved.
//  2. A disk that shrank by more ends inside its old journal: frames of its log are left.

// resizedWindow is how far from the end frames are looked for, holes not counted: the default
// journal, and as much again.
const resizedWindow = 2 * defaultJournalBytes

// refuseResized returns an error that wraps jsuper.ErrChanged or jsuper.ErrShrunk if the
// backing, which has no superblock at its end, looks as if it had an internal journal before
// it was resized.
func refuseResized(backing *disk.File, diskPath string) error {
	super, at, err := jsuper.FindMoved(backing)
	if err != nil {
		return fmt.Errorf("disk %s: %w", diskPath, err)
	}
	if super != nil {
		if super.State == jsuper.Closed {
			return nil // nothing is in it
		}
		size := super.DeviceBytes
		if size == 0 {
			size = at + jsuper.ReservedBytes // right if it is slot 0
		}
		cause := jsuper.ErrChanged
		if backing.Size() < size {
			cause = jsuper.ErrShrunk
		}
		return fmt.Errorf("disk %s: %w: it was resized to %d bytes, and the superblock of its internal journal lies at %d: restore its size of %d bytes",
			diskPath, cause, backing.Size(), at, size)
	}
	at, err = findFrame(backing)
	if err != nil {
		return fmt.Errorf("disk %s: look for what a journal left: %w", diskPath, err)
	}
	if at < 0 {
		return nil
	}
	return fmt.Errorf("disk %s: %w: a frame of a journal's log lies at %d, and no superblock behind it: it was cut to %d bytes; restore its size (if it never had an internal journal, and that frame is its own data, 'jnbd create --accept-backing' takes it as it is)",
		diskPath, jsuper.ErrShrunk, at, backing.Size())
}

// findFrame is the offset of a frame of a log among the last data of dev, or -1.
func findFrame(dev disk.Device) (int64, error) {
	type piece struct{ off, end int64 }
	var data []piece
	err := disk.Extents(dev, 0, dev.Size(), func(off, n int64, hole bool) bool {
		if !hole {
			data = append(data, piece{off / wal.LineBytes * wal.LineBytes, off + n})
		}
		return true
	})
	buf := make([]byte, 1<<20)
	left := int64(resizedWindow)
	for i := len(data) - 1; i >= 0 && left > 0 && err == nil; i-- {
		from := max(data[i].off, (data[i].end-left)/wal.LineBytes*wal.LineBytes)
		left -= data[i].end - from
		for ; from < data[i].end; from += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), data[i].end-from)]
			if _, err := dev.ReadAt(p, from); err != nil {
				return -1, err
			}
			for at := 0; at < len(p); at += wal.LineBytes {
				if wal.IsFrame(p[at:]) {
					return from + int64(at), nil
				}
			}
		}
	}
	return -1, err
}
