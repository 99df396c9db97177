package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jnbd/jsuper"
)

// The ways to end:
//
//	Close   checkpoint, as long as the context lasts; the superblock says Clean if all is
//	        home, else Dirty stays, and the next Open serves the rest from the log
//	Finish  the same, then Closed: the backing is a plain raw image from then on (P8)
//	kill    nothing; Open recovers
//
// Neither closes the devices; who opened them does.

// Close ends the disk: changes are refused from now on, background work has ended on return.
// What was changed before is durable if it returns nil, or an error of ctx alone, or ErrHostFull.
func (d *Disk) Close(ctx context.Context) error { return d.end(ctx, jsuper.Clean, nil) }

// Finish is Close that leaves a plain raw image. An error leaves a disk that can be opened
// again and finished later; nothing is lost. progress gets bytes of log done and in all.
func (d *Disk) Finish(ctx context.Context, progress func(done, total int64)) error {
	return d.end(ctx, jsuper.Closed, progress)
}

func (d *Disk) end(ctx context.Context, state jsuper.State, progress func(done, total int64)) error {
	if d.closing.Swap(true) {
		return ErrClosed
	}
	close(d.stopped)
	d.background.Wait()
	if d.readOnly {
		return nil
	}
	defer d.log.Close() // only stops its flusher; what it flushed or failed to is known
	err := d.bringToEnd(ctx, state, progress)
	if d.poison.Load() == nil {
		return err
	}
	if err != nil {
		err = d.poisoned()
	}
	return errors.Join(err, d.awaitEnding())
}

// bringToEnd is end, once nothing else works on the disk.
func (d *Disk) bringToEnd(ctx context.Context, state jsuper.State, progress func(done, total int64)) error {
	if d.poison.Load() != nil {
		return d.poisoned()
	}
	if _, err := d.log.Flush(); err != nil {
		return d.poisonWith(fmt.Errorf("flush the log: %w", err))
	}
	if err := d.Checkpoint(ctx, progress); err != nil {
		return err
	}
	if state == jsuper.Closed && d.once != nil {
		if err := d.bringAllHome(ctx, progress); err != nil {
			return err
		}
	}
	return d.seal(state)
}

// seal marks the superblock: everything is home.
func (d *Disk) seal(state jsuper.State) error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	if n, _ := d.overlay.size(); n != 0 || d.log.Stats().Tail != d.log.Stats().Head {
		return fmt.Errorf("close: %d extents are not home after a full checkpoint; run jnbd check", n)
	}
	// The modification time must be on the medium before the superblock that names it.
	if f, ok := d.backing.(interface{ SyncAll() error }); ok {
		if err := f.SyncAll(); err != nil {
			return d.poisonWith(fmt.Errorf("sync the backing: %w", err))
		}
	}
	if err := d.fingerprint(); err != nil {
		return err
	}
	if d.super.Placement == jsuper.Beside {
		d.super.Fingerprint.ModTimeNs = modTime(d.backing)
	}
	d.super.State = state
	d.super.UpdatedAt = time.Now()
	d.super.DurableUpTo = d.log.Stats().DurableUpTo
	if err := d.store.Save(&d.super); err != nil {
		return d.poisonWith(fmt.Errorf("superblock: %w", err))
	}
	return nil
}
