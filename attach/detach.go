package attach

import (
	"errors"
	"fmt"
	"time"

	"jnbd/kernel"
)

// Errors of Detach that a caller may want to tell apart.
var (
	// ErrNotAttached: there is nothing to detach.
	ErrNotAttached = errors.New("device is not attached")
	// ErrInUse: it is mounted, or part of something else.
	ErrInUse = errors.New("device is in use")
)

// detachPatience is how long a device may take to be gone once it was detached.
const detachPatience = 5 * time.Second

// Detach detaches a device in order: nobody else may use it, and what lies in the page cache
// is sent and made durable first.
func Detach(driver Driver, index uint32) error {
	if err := mustBeAttached(index); err != nil {
		return err
	}
	hold, err := kernel.Exclusive(index)
	if errors.Is(err, kernel.ErrBusy) {
		return fmt.Errorf("%w: /dev/nbd%d is mounted or part of a volume; unmount it first, or give its unwritten data up with --force", ErrInUse, index)
	}
	if err != nil {
		return err
	}
	err = hold.Sync()
	if err != nil {
		return errors.Join(fmt.Errorf("send what is unwritten: %w; --force gives it up", err), hold.Release())
	}
	if err := awaitLooks(hold); err != nil {
		return errors.Join(err, hold.Release())
	}
	// Nobody can begin to use it in between.
	if err := errors.Join(driver.Disconnect(index), hold.Release()); err != nil {
		return err
	}
	return awaitGone(index)
}

// awaitLooks waits until nobody looks at the device, and lets nobody begin. Somebody who takes
// his time is no failure: his reads fail then.
func awaitLooks(hold *kernel.Hold) error {
	for deadline := time.Now().Add(detachPatience); time.Now().Before(deadline); time.Sleep(busyPause) {
		if alone, err := hold.LockOut(); err != nil || alone {
			return err
		}
	}
	return nil
}

// Force detaches a device whoever uses it. Requests that are under way fail, so that no
// process waits for them any more; what was not written is lost.
func Force(driver Driver, index uint32) error {
	if err := mustBeAttached(index); err != nil {
		return err
	}
	return driver.Disconnect(index)
}

// mustBeAttached refuses a device that is not.
func mustBeAttached(index uint32) error {
	state, err := kernel.Look(index)
	if err != nil {
		return err
	}
	if !state.Attached {
		return fmt.Errorf("/dev/nbd%d: %w", index, ErrNotAttached)
	}
	return nil
}

// awaitGone waits until the device can be attached anew. Somebody who still has it open, for
// a look, keeps it a while; that is no failure.
func awaitGone(index uint32) error {
	for deadline := time.Now().Add(detachPatience); time.Now().Before(deadline); time.Sleep(busyPause) {
		if state, err := kernel.Look(index); err != nil || !state.Attached {
			return err
		}
	}
	return nil
}
