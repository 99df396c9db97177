package journal

import (
	"errors"
	"fmt"
	"time"

	"jnbd/wal"
)

// Sync makes every change that returned before the call durable against power loss (P3), of
// all callers. It returns at once when nothing has changed since the last barrier.
//
// Calls that wait together share one flush of the log (wal.Log.Flush); with the routes of
// mode data nothing else is needed. A failed flush poisons the disk and is never retried.
func (d *Disk) Sync() error {
	for {
		if err := d.writable(); err != nil {
			if errors.Is(err, ErrReadOnly) {
				return nil // nothing was ever changed
			}
			return err
		}
		freed := d.space.next()
		_, err := d.log.Flush()
		switch {
		case err == nil:
			if d.once != nil && d.once.state.Quarantined(d.recordedUpTo()) {
				d.kickCheckpoint() // it makes these places usable again
			}
			return nil
		case errors.Is(err, wal.ErrClosed):
			return ErrClosed
		case !errors.Is(err, wal.ErrFull):
			return d.poisonWith(fmt.Errorf("flush the log: %w", err))
		}
		// No room for the barrier's own frame: as with a write, wait.
		d.starving.Store(true)
		d.kickCheckpoint()
		select {
		case <-freed:
		case <-d.stopped:
			return ErrClosed
		}
	}
}

// commitLoop makes the timer's barriers. Close ends it.
func (d *Disk) commitLoop(every time.Duration) {
	defer d.background.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-d.stopped:
			return
		case <-tick.C:
			if d.Sync() != nil {
				return // poisoned or closed: both final, both told elsewhere
			}
		}
	}
}
