package main

import (
	"errors"
	"fmt"

	"jnbd/disk"
)

// openToLook opens a disk for commands that only read. A disk that another process serves
// can be looked at too, without its lock: what is seen then may be a moment old.
func openToLook(diskPath, journalFlag string) (s *store, inUse bool, err error) {
	at, err := locate(diskPath, journalFlag)
	if err != nil {
		return nil, false, err
	}
	s, err = openStore(at, access{readOnly: true})
	if errors.Is(err, disk.ErrLocked) {
		inUse = true
		s, err = openStore(at, access{readOnly: true, noLock: true})
	}
	return s, inUse, err
}

// lookRetries is how often a look at a disk in use is repeated when the log moved on
// beneath it: its space was used again between reading the superblock and the frames.
const lookRetries = 5

// look runs read, and runs it again if the disk is in use and read failed.
func look(inUse bool, read func() error) error {
	err := read()
	for range lookRetries {
		if err == nil || !inUse {
			return err
		}
		err = read()
	}
	if err != nil {
		return fmt.Errorf("%w (the disk is in use, so this may be no damage)", err)
	}
	return nil
}
