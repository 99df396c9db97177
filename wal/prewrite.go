package wal

import (
	"fmt"

	"jnbd/disk"
)

// Format makes dev an empty log: it writes zeros over all of it, so that later appends
// never wait for the host to allocate space, and flushes. An older log on dev is gone
// after that. progress, if not nil, is called now and then with bytes. The zero Start is
// where its scan begins.
func Format(dev disk.Device, progress func(done, total int64)) error {
	geo, err := geometryOf(dev)
	if err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	zeros := make([]byte, 1<<20)
	for done := int64(0); done < geo.size; {
		n := min(geo.size-done, int64(len(zeros)))
		if _, err := dev.WriteAt(zeros[:n], done); err != nil {
			return fmt.Errorf("format log: write %d zeros at %d: %w", n, done, err)
		}
		done += n
		if progress != nil {
			progress(done, geo.size)
		}
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("format log: flush: %w", err)
	}
	return nil
}
