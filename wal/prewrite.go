package wal

import (
	"fmt"

	"jnbd/disk"
)

// formatPiece is how much of a log is zeroed by one write. The host's page cache keeps a file
// in pieces as large as it was written in, and looks through a whole one for every frame that it
// gets (measured by hand): a frame of 4 KiB in a piece of 1 MiB took 3.0 µs, in 128 or 32 KiB 1.3, in 16 KiB 1.5. Appends
// of many frames want large ones: 128 KiB in pieces of 16 KiB took 25 µs, in pieces of 32 or 128 KiB 17.
// And the kernel's count for a process takes a whole piece for each append: with 128 KiB, bulk that is written
// once counted as 1.03 to 1.06 times what was written, with 32 KiB as 1.016
// (TestBulkIsWrittenOnceToFiles).
const formatPiece = 32 << 10

// Format makes dev an empty log: it writes zeros over all of it, so that later appends
// never wait for the host to allocate space, and flushes. An older log on dev is gone
// after that. progress, if not nil, is called now and then with bytes. The zero Start is
// where its scan begins.
func Format(dev disk.Device, progress func(done, total int64)) error {
	geo, err := geometryOf(dev)
	if err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	if err := disk.FillZeros(geo.size, formatPiece, dev.WriteAt, progress); err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("format log: flush: %w", err)
	}
	return nil
}
