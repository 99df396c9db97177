package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir holds a file for each device that is supervised, locked by its supervisor.
const lockDir = "/run/jnbd"

const (
	lockPatience = 5 * time.Second       // for a supervisor whose device was just detached
	lockPause    = 50 * time.Millisecond // between two tries
)

// superviseAlone makes this process the only supervisor of a device. One that is about to
// end, because its device was detached, is waited for.
func superviseAlone(ctx context.Context, index uint32) (release func(), err error) {
	if err := os.MkdirAll(lockDir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(lockPath(index), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			if err := writeOwner(file); err != nil {
				return nil, errors.Join(err, file.Close())
			}
			return func() {
				_ = file.Truncate(0) // nobody reads it once the lock is gone
				_ = file.Close()
			}, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		case time.Now().After(deadline):
			owner, _ := os.ReadFile(file.Name()) // it only helps to find who it is
			_ = file.Close()
			return nil, fmt.Errorf("/dev/nbd%d is attached already: jnbd attach runs for it as process %s; run jnbd detach first",
				index, strings.TrimSpace(string(owner)))
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// writeOwner writes this process's number into the file.
func writeOwner(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// awaitSupervisor waits until nobody supervises a device any more, for a while: its
// supervisor finds out by itself that the device is gone.
func awaitSupervisor(index uint32) {
	file, err := os.Open(lockPath(index))
	if err != nil {
		return // there never was one
	}
	defer file.Close() // and with it goes the lock
	for deadline := time.Now().Add(lockPatience); time.Now().Before(deadline); time.Sleep(lockPause) {
		if unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			return
		}
	}
}

func lockPath(index uint32) string {
	return filepath.Join(lockDir, fmt.Sprintf("nbd%d.lock", index))
}
