package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Index is N of a path /dev/nbdN, which may be a link to one.
func Index(path string) (uint32, error) {
	target := path
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		target = resolved
	}
	digits, ok := strings.CutPrefix(target, "/dev/nbd")
	index, err := strconv.ParseUint(digits, 10, 31)
	if !ok || err != nil || strconv.FormatUint(index, 10) != digits {
		return 0, fmt.Errorf("device %s: want /dev/nbdN, with a number", path)
	}
	return uint32(index), nil
}

// State is what sysfs shows of a device.
type State struct {
	Attached bool
	Size     int64  // bytes
	Backend  string // the identifier that it was attached with, if any
	Queues   int    // connections that it was attached with
}

// Look reads a device's State. A device that does not exist yet is not attached.
func Look(index uint32) (State, error) {
	return lookBelow("/sys/block", index)
}

// lookBelow is Look with another root of sysfs.
func lookBelow(root string, index uint32) (State, error) {
	dir := filepath.Join(root, fmt.Sprintf("nbd%d", index))
	var s State
	// The driver shows who attached it for as long as it is attached.
	if _, err := read(dir, "pid"); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return s, err
	}
	s.Attached = true
	sectors, err := read(dir, "size")
	if err != nil {
		return s, err
	}
	n, err := strconv.ParseInt(sectors, 10, 54)
	if err != nil {
		return s, fmt.Errorf("%s/size: %w", dir, err)
	}
	s.Size = n * 512
	if s.Backend, err = read(dir, "backend"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	queues, err := os.ReadDir(filepath.Join(dir, "mq"))
	if err != nil {
		return s, err
	}
	s.Queues = len(queues)
	return s, nil
}

// read reads one value.
func read(dir, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, unix.ENODEV) { // it is being detached
		err = fs.ErrNotExist
	}
	return strings.TrimSpace(string(text)), err
}

// Hold is a device that nobody else can mount, or use exclusively in another way.
type Hold struct{ file *os.File }

// Exclusive takes a device for this process alone. The error is ErrBusy if it is mounted, or
// part of something else: swap, a volume, an array.
func Exclusive(index uint32) (*Hold, error) {
	path := fmt.Sprintf("/dev/nbd%d", index)
	// Read-only: after a close of one that could have written, udev looks at the device anew.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	return &Hold{file}, nil
}

// Sync sends what is still in the page cache to the server and makes it durable there.
func (h *Hold) Sync() error { return h.file.Sync() }

// LockOut keeps udev from looking at the device until Release, and reports whether nobody looks
// now: false is worth another try. Whoever looks at a device or changes it holds a lock on it
// (systemd's "Locking Block Device Access"); if the device went meanwhile, his reads would
// fail.
func (h *Hold) LockOut() (bool, error) {
	err := unix.Flock(int(h.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		return false, nil
	}
	return false, fmt.Errorf("lock %s: %w", h.file.Name(), err)
}

// Release gives the device back.
func (h *Hold) Release() error { return h.file.Close() }

// Settle waits until the partitions of a device that was just attached are known: the
// kernel looks for them when it is first opened.
func Settle(index uint32) error {
	file, err := os.Open(fmt.Sprintf("/dev/nbd%d", index))
	if err != nil {
		return fmt.Errorf("look for partitions: %w", err)
	}
	return file.Close()
}
