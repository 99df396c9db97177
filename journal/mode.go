package journal

import (
	"context"
	"errors"
	"fmt"

	"jnbd/jsuper"
)

// changeMode makes mode the disk's own. again means that the disk has got a write-once side,
// and must be opened anew to have it; this one is closed then.
//
// A change to data keeps the write-once side: what is displaced stays where it is until it
// is brought home. So the way back is one superblock, too.
func (d *Disk) changeMode(given Parts, mode jsuper.Mode) (again bool, err error) {
	routes, err := newRoutes(mode)
	if err != nil {
		return false, err
	}
	if mode != jsuper.Data && d.once == nil {
		return true, d.addOnce(given, mode)
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.super.Mode, d.opened.Mode, d.routes = mode, mode, routes
	if err := d.store.SaveBoth(&d.super); err != nil {
		return false, fmt.Errorf("superblock: %w", err)
	}
	return false, nil
}

// addOnce gives a disk of mode data a write-once side, behind the log. Everything is brought
// home first, so that what the backing has allocated is what is present.
func (d *Disk) addOnce(given Parts, mode jsuper.Mode) error {
	journal, ok := given.Journal.(interface{ Truncate(size int64) error })
	if !ok || given.Placement == jsuper.Internal {
		return errors.New("its journal can't grow for spare slots: bring the disk home with jnbd close, and create its journal again in that mode")
	}
	if err := d.Checkpoint(context.Background(), nil); err != nil {
		return err
	}
	if err := d.log.Close(); err != nil {
		return err
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	sb := d.super
	sb.Mode = mode
	opt := FormatOptions{DiskBytes: sb.DiskBytes, JournalBytes: sb.LogOffset + sb.LogBytes, Mode: mode}
	size := max(JournalSize(opt), given.Journal.Size())
	if err := layOutOnce(&sb, opt.JournalBytes, size, opt.spareBytes()); err != nil {
		return err
	}
	if err := journal.Truncate(size); err != nil {
		return fmt.Errorf("make the journal longer: %w", err)
	}
	if err := formatBases(&sb, given); err != nil {
		return err
	}
	if err := d.store.SaveBoth(&sb); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	return nil
}
