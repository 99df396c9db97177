package journal

import (
	"fmt"

	"jnbd/disk"
)

// poisonWith is P9: the first failed write or flush of log, superblock or backing ends all
// changes for good. Nothing durable advances any more, reads go on where they safely can,
// and only a restart, which believes nothing but the media, recovers; it is another incarnation.
// poisonWith returns the error to hand to the caller; the first cause stays.
func (d *Disk) poisonWith(cause error) error {
	if d.poison.CompareAndSwap(nil, &cause) {
		d.space.send() // who waits for space waits in vain
		if d.onPoison != nil {
			d.onPoison(cause)
		}
		d.endIncarnation(cause)
	}
	return d.poisoned()
}

// poisoned is the error of every change after the first failure.
func (d *Disk) poisoned() error {
	cause := *d.poison.Load()
	return fmt.Errorf("%w: %w", ErrPoisoned, cause)
}

// Err is the failure that poisoned the disk, or nil.
func (d *Disk) Err() error {
	if cause := d.poison.Load(); cause != nil {
		return *cause
	}
	return nil
}

// writable says why no change can be made, if so.
func (d *Disk) writable() error {
	switch {
	case d.poison.Load() != nil:
		return d.poisoned()
	case d.readOnly:
		return ErrReadOnly
	case d.closing.Load():
		return ErrClosed
	}
	return nil
}

// inRange refuses what no client should get past the protocol server.
func (d *Disk) inRange(what string, off, n int64) error {
	if off < 0 || n < 0 || n > d.size || off > d.size-n {
		return fmt.Errorf("%s [%d, +%d): disk has %d bytes: %w", what, off, n, d.size, disk.ErrOutOfRange)
	}
	return nil
}
