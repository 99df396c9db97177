package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"jnbd/jsuper"
)

// internalJournal is the --journal value that puts the journal into the backing's tail.
const internalJournal = "internal"

// place says where the parts of a disk are.
type place struct {
	disk      string // the backing, as the user named it, but for links to an image
	journal   string // the journal's file or device; empty when it is internal
	placement jsuper.Placement
}

// beside is where the journal of a disk lies unless said otherwise. With --journal PATH
// it is a symbolic link, so that later commands find the journal without being told.
func beside(diskPath string) string { return diskPath + ".jnbd" }

// resolveDisk is DISK without symbolic links to the image file itself: by every name it has
// one journal, beside the file. A block device keeps its name: the node that a link in /dev
// leads to may be another one after the next boot. So does what does not exist.
func resolveDisk(diskPath string) (string, error) {
	link, err := os.Lstat(diskPath)
	if err != nil || link.Mode()&fs.ModeSymlink == 0 {
		return diskPath, nil // whoever opens it tells what is wrong, if anything is
	}
	if info, err := os.Stat(diskPath); err != nil || !info.Mode().IsRegular() {
		return diskPath, nil
	}
	resolved, err := filepath.EvalSymlinks(diskPath)
	if err != nil {
		return "", fmt.Errorf("disk %s: follow the link: %w", diskPath, err)
	}
	return resolved, nil
}

func internalPlace(diskPath string) place {
	return place{disk: diskPath, placement: jsuper.Internal}
}

func besidePlace(diskPath, journalPath string) place {
	return place{disk: diskPath, journal: journalPath, placement: jsuper.Beside}
}

// locate finds the journal of an existing disk: where --journal says, else DISK.jnbd if
// that exists, else the tail of the backing. It does not look into the journal.
func locate(diskPath, journalFlag string) (place, error) {
	if _, err := statDisk(diskPath); err != nil {
		return place{}, err
	}
	diskPath, err := resolveDisk(diskPath)
	if err != nil {
		return place{}, err
	}
	switch journalFlag {
	case "":
	case internalJournal:
		return internalPlace(diskPath), nil
	default:
		return existingJournal(diskPath, journalFlag)
	}
	link, err := os.Lstat(beside(diskPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return internalPlace(diskPath), nil
	case err != nil:
		return place{}, fmt.Errorf("look for the journal of %s: %w", diskPath, err)
	case link.Mode()&fs.ModeSymlink == 0:
		return besidePlace(diskPath, beside(diskPath)), nil
	}
	target, err := os.Readlink(beside(diskPath))
	if err != nil {
		return place{}, fmt.Errorf("look for the journal of %s: %w", diskPath, err)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(diskPath), target)
	}
	return existingJournal(diskPath, target)
}

// existingJournal is besidePlace for a journal that must be there.
func existingJournal(diskPath, journalPath string) (place, error) {
	_, err := os.Stat(journalPath)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, fmt.Errorf("journal of %s: %w: %s is not there; bring it back (or attach its device) before the disk is used: it may hold writes that the image lacks",
			diskPath, jsuper.ErrNoJournal, journalPath)
	}
	if err != nil {
		return place{}, fmt.Errorf("journal of %s: %w", diskPath, err)
	}
	return besidePlace(diskPath, journalPath), nil
}

// statDisk looks at DISK before anything opens it.
func statDisk(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("disk %s does not exist; 'jnbd create %s --size SIZE' makes it: %w", path, path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return info, nil
}

func isBlockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}
