package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"

	"jnbd/journal"
	"jnbd/jsuper"
)

// createPlan is where everything will lie. Making one writes nothing.
type createPlan struct {
	place
	makeDisk    bool  // the backing does not exist yet
	blockDevice bool  // the backing is a block device
	diskBytes   int64 // --size, or 0 for the backing's own
	format      journal.FormatOptions
	spare       string // --spare
	// acceptBacking takes a disk that looks as if it had an internal journal before it was
	// resized.
	acceptBacking bool
	makeJournal   bool   // the journal is a file that does not exist yet, or is to be replaced
	link          string // symbolic link to the journal, or empty
}

func planCreate(diskPath string, options createOptions) (*createPlan, error) {
	mode, err := parseMode(options.mode)
	if err != nil {
		return nil, err
	}
	if diskPath, err = resolveDisk(diskPath); err != nil {
		return nil, err
	}
	plan := &createPlan{diskBytes: options.size.bytes, spare: options.spare, acceptBacking: options.acceptBacking}
	plan.format.WriteSpare = options.preallocate
	plan.format.Mode, plan.format.JournalBytes = mode, defaultJournalBytes
	if options.journalSize.given {
		plan.format.JournalBytes = roundUp(options.journalSize.bytes, sizeLine)
	}
	if plan.format.JournalBytes < journal.MinJournalBytes {
		return nil, usagef("--journal-size %s is too small: want at least %s", formatSize(plan.format.JournalBytes), formatSize(journal.MinJournalBytes))
	}
	if _, err := spareBytes(options.spare, mode, max(options.size.bytes, 1)); err != nil {
		return nil, err
	}
	if options.preallocate && mode == jsuper.Data {
		return nil, usagef("--preallocate is about the spare area, which mode data has not: leave it out, or choose --mode auto or ordered")
	}
	if options.size.given && options.size.bytes == 0 {
		return nil, usagef("--size 0: a disk has at least one byte")
	}

	info, err := os.Stat(diskPath)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !options.size.given:
		return nil, fmt.Errorf("disk %s does not exist; give --size to make it: %w", diskPath, fs.ErrNotExist)
	case errors.Is(err, fs.ErrNotExist):
		plan.makeDisk = true
	case err != nil:
		return nil, fmt.Errorf("disk %s: %w", diskPath, err)
	default:
		plan.blockDevice = isBlockDevice(info)
		if err := plan.refuseLinked(diskPath, info); err != nil {
			return nil, err
		}
	}

	switch {
	case options.journal == internalJournal, options.journal == "" && plan.blockDevice:
		plan.place = internalPlace(diskPath)
	case options.journal == "":
		plan.place, plan.makeJournal = besidePlace(diskPath, beside(diskPath)), true
	default:
		if err := plan.journalElsewhere(diskPath, options.journal); err != nil {
			return nil, err
		}
	}
	if plan.sharesDevice() && mode != jsuper.Data && plan.spare == "" {
		plan.spare = deviceSpare
	}
	return plan, refuseExistingJournal(diskPath)
}

// deviceSpare is the default --spare where the spare slots take room from the disk. A file's
// are sparse: there it is all of the disk.
const deviceSpare = "25%"

// sharesDevice reports whether disk and journal divide a device of fixed size between them.
func (plan *createPlan) sharesDevice() bool {
	return plan.blockDevice && plan.placement == jsuper.Internal
}

// settle completes what the format asks for once the backing's size is known.
func (plan *createPlan) settle(backingBytes int64) error {
	size := plan.diskBytes
	switch {
	case size > 0:
	case plan.sharesDevice():
		size = plan.largestDisk(backingBytes)
	default:
		size = backingBytes
	}
	return plan.settleDisk(size)
}

// settleDisk is settle for a disk of that size.
func (plan *createPlan) settleDisk(size int64) (err error) {
	plan.format.DiskBytes = size
	plan.format.SpareBytes, err = spareBytes(plan.spare, plan.format.Mode, size)
	return err
}

// largestDisk is the size of the largest disk, a multiple of sizeLine, that leaves room for
// its journal on a device of deviceBytes, or 0: the journal grows with the disk.
func (plan *createPlan) largestDisk(deviceBytes int64) int64 {
	with := *plan
	lines := sort.Search(int(deviceBytes/sizeLine), func(i int) bool {
		size := int64(i+1) * sizeLine
		return with.settleDisk(size) != nil || size+journal.JournalSize(with.format) > deviceBytes
	})
	return int64(lines) * sizeLine
}

// journalElsewhere plans for --journal PATH.
func (plan *createPlan) journalElsewhere(diskPath, path string) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("--journal %s: %w", path, err)
	}
	plan.place = besidePlace(diskPath, absolute)
	if !plan.blockDevice {
		plan.link = beside(diskPath) // a link in /dev would not outlive the next boot
	}
	info, err := os.Stat(absolute)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		plan.makeJournal = true
	case err != nil:
		return fmt.Errorf("--journal %s: %w", path, err)
	case !isBlockDevice(info):
		return fmt.Errorf("--journal %s exists already: name a new file, or remove it first if no disk needs it: %w", path, fs.ErrExist)
	}
	if plan.makeJournal && plan.link == absolute {
		plan.link = ""
	}
	return nil
}

// refuseLinked keeps an image from a second journal: one that lies beside another of its names
// can't be found from this one.
func (plan *createPlan) refuseLinked(diskPath string, info fs.FileInfo) error {
	file, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || file.Nlink < 2 || plan.acceptBacking {
		return nil
	}
	return fmt.Errorf("disk %s has %d names (hard links), and by another one it may have a journal already: use that name, or remove it ('find / -samefile %s' finds it); if none has a journal, give --accept-backing: %w",
		diskPath, file.Nlink, diskPath, fs.ErrExist)
}

// refuseExistingJournal keeps a journal beside the disk from being overwritten or
// forgotten: it may hold writes that the image lacks. A file of zeros holds none: an older
// jnbd left it when it was killed.
func refuseExistingJournal(diskPath string) error {
	info, err := os.Lstat(beside(diskPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a journal of %s: %w", diskPath, err)
	}
	if info.Mode().IsRegular() {
		if unfinished, err := neverFinished(beside(diskPath)); unfinished || err != nil {
			return err
		}
	}
	return fmt.Errorf("disk %s has a journal already: 'jnbd serve %s' uses it; to start over, run 'jnbd close %s' and remove %s: %w",
		diskPath, diskPath, diskPath, beside(diskPath), fs.ErrExist)
}
