package journal

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A host that is full. A write that it refuses for lack of space has lost nothing: its bytes are
// still the client's, or in the log, or in spare. So it is no poison, and it is never a
// client's error either (decision 20):
//
//   - A write that goes out once takes the log instead (direct.go).
//   - A checkpoint stops. What it was to bring home stays in the log, and a tick later it tries
//     again, a segment at a time, so that it goes on as soon as there is a little room.
//     A log that has become full makes writers wait, as always (P7); reads and flushes go on.
//   - Homing stops, until the next idle tick.
//   - Close leaves in the log what is there, and Finish ends with ErrHostFull: both can be
//     had again when there is room.
//
// A flush that fails so is poison like any other (P9): the host had taken the bytes and lost them.

// ErrHostFull: the file system under the disk or its journal has no space for what is to go
// there. Nothing is lost, and it can be tried again once there is room.
var ErrHostFull = errors.New("the host's file system is full")

// refusedSpace reports whether err is a host that has no space, or gives this user no more.
// Only of a write: of a flush it is a failure.
func refusedSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// asHostFull makes the error of a write ErrHostFull, if it is that, and leaves others alone.
func asHostFull(err error) error {
	if refusedSpace(err) {
		return fmt.Errorf("%w: %w", ErrHostFull, err)
	}
	return err
}

// hostIsFull tells that a checkpoint waits for room.
func (d *Disk) hostIsFull(err error) {
	if d.hostFull.CompareAndSwap(nil, &err) && d.onHostFull != nil {
		d.onHostFull(err)
	}
}

// hostHasRoom tells that a checkpoint has ended well.
func (d *Disk) hostHasRoom() {
	if d.hostFull.Swap(nil) != nil && d.onHostFull != nil {
		d.onHostFull(nil)
	}
}

// HostFull is why the last checkpoint could bring nothing home, if the host was full; else nil.
func (d *Disk) HostFull() error {
	if err := d.hostFull.Load(); err != nil {
		return *err
	}
	return nil
}
