package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"jnbd/disk"
	"jnbd/journal"
)

// A new journal file is never seen under its name before it is whole:
//
//  1. It is made as DISK.jnbd.new, locked. What an earlier create left there is replaced.
//  2. It is formatted and flushed there (create.go).
//  3. publish renames it, makes the link to it if it lies elsewhere, and syncs the
//     directories.

// unfinishedName is what a journal file is called until it is whole.
func unfinishedName(journalPath string) string {
	return strings.TrimSuffix(journalPath, ".jnbd") + ".jnbd.new"
}

// openJournal makes the journal's file under its first name, or opens the device.
func (plan *createPlan) openJournal(undo *undoList) (*disk.File, error) {
	if !plan.makeJournal {
		return disk.OpenFile(plan.journal, disk.FileOptions{})
	}
	name := unfinishedName(plan.journal)
	if err := removeUnfinished(name); err != nil {
		return nil, err
	}
	f, err := disk.OpenFile(name, disk.FileOptions{Create: true, Size: journal.JournalSize(plan.format)})
	if err != nil {
		return nil, err
	}
	undo.add(func() error { return removeIfThere(name) })
	return f, nil
}

// removeUnfinished takes away what a create that was killed left. One that still runs holds
// the lock.
func removeUnfinished(name string) error {
	f, err := disk.OpenFile(name, disk.FileOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("replace what an earlier create left: %w", err)
	}
	return errors.Join(os.Remove(name), f.Close())
}

// publish gives the journal its name. The disk has it when this returns nil.
func (plan *createPlan) publish(undo *undoList) error {
	if plan.makeJournal {
		if err := plan.refuseTaken(); err != nil {
			return err
		}
		if err := os.Rename(unfinishedName(plan.journal), plan.journal); err != nil {
			return fmt.Errorf("name the journal: %w", err)
		}
		undo.add(func() error { return removeIfThere(plan.journal) })
		if err := disk.SyncDir(filepath.Dir(plan.journal)); err != nil {
			return err
		}
	}
	if plan.link == "" {
		return nil
	}
	if err := replaceUnfinishedByLink(plan.journal, plan.link); err != nil {
		return fmt.Errorf("link the journal: %w", err)
	}
	undo.add(func() error { return removeIfThere(plan.link) })
	return disk.SyncDir(filepath.Dir(plan.link))
}

// refuseTaken looks again, now that backing and new journal are locked: another create may
// have been quicker than we since the plan was made.
func (plan *createPlan) refuseTaken() error {
	if plan.journal == beside(plan.disk) {
		return refuseExistingJournal(plan.disk)
	}
	if _, err := os.Lstat(plan.journal); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("journal %s: %w", plan.journal, fs.ErrExist))
	}
	return nil
}

// replaceUnfinishedByLink makes the link. What may lie in its place was found to be nobody's
// by refuseExistingJournal.
func replaceUnfinishedByLink(target, link string) error {
	err := os.Symlink(target, link)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if unfinished, err := neverFinished(link); err != nil || !unfinished {
		return errors.Join(err, fmt.Errorf("%s: %w", link, fs.ErrExist))
	}
	if err := os.Remove(link); err != nil {
		return err
	}
	return os.Symlink(target, link)
}

// neverFinishedBytes is how much of a journal is looked at to see that it was never used:
// the superblock, and behind it the log's beginning, which the first use writes.
const neverFinishedBytes = 1 << 20

// neverFinished reports whether the file is a journal that an older jnbd began to make, under
// its final name, and did not finish: it has no superblock and its log begins with zeros.
func neverFinished(path string) (bool, error) {
	f, err := disk.OpenFile(path, disk.FileOptions{ReadOnly: true})
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", path, err)
	}
	defer f.Close() // only read
	err = requireZeros(f, 0, min(f.Size(), neverFinishedBytes), nil)
	var found *nonZeroError
	if errors.As(err, &found) {
		return false, nil
	}
	return err == nil, err
}

// removeIfThere is os.Remove for what may have been renamed or removed since.
func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
