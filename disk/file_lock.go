package disk

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A block device may be locked for a moment by udev, which looks at it whenever somebody
// who wrote to it closes it. It is given that moment. A file is not: nobody but another
// user of the disk locks it.
const (
	udevPatience = 2 * time.Second
	udevPause    = 20 * time.Millisecond
)

// lock takes the flock(2), shared for reading and exclusive for writing. The kernel lets go
// of it when the file is closed, also by the death of the process.
func (f *File) lock() error {
	how := unix.LOCK_EX
	if f.readOnly {
		how = unix.LOCK_SH
	}
	var patience time.Duration
	if f.block {
		patience = udevPatience
	}
	for {
		err := retry(func() error { return unix.Flock(f.fd, how|unix.LOCK_NB) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock: %w", err)
		}
		if patience <= 0 {
			return fmt.Errorf("lock: %w: stop the process that serves it (fuser %s)", ErrLocked, f.path)
		}
		time.Sleep(udevPause)
		patience -= udevPause
	}
}
