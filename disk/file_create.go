package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createFile makes a new sparse image file, locked, and durable with its name: file and
// directory are synced before it returns. Only its owner may read it: it will hold all that a
// disk holds. If it fails it removes what it made.
func createFile(path string, opt FileOptions) (*File, error) {
	if opt.ReadOnly {
		return nil, fmt.Errorf("create disk %s: %w", path, errReadOnly)
	}
	if opt.Size < 0 {
		return nil, fmt.Errorf("create disk %s: a size of %d bytes: %w", path, opt.Size, unix.EINVAL)
	}
	fd, err := openRetry(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create disk %s: %w", path, err)
	}
	f := &File{path: path, fd: fd, direct: directFile{fd: -1}}
	if err := f.fillNew(opt); err != nil {
		// Who was quicker to lock the new name uses it; then it is not ours to remove.
		if !errors.Is(err, ErrLocked) {
			_ = os.Remove(path)
		}
		_ = f.Close()
		return nil, fmt.Errorf("create disk %s of %d bytes: %w", path, opt.Size, err)
	}
	return f, nil
}

func (f *File) fillNew(opt FileOptions) error {
	if err := f.prepare(opt); err != nil {
		return err
	}
	if err := f.Truncate(opt.Size); err != nil {
		return err
	}
	if err := f.SyncAll(); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(f.path))
}

// SyncDir makes the names in a directory durable: after a create, a rename or a remove.
func SyncDir(dir string) error {
	fd, err := openRetry(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	err = retry(func() error { return unix.Fsync(fd) })
	_ = unix.Close(fd)
	// Some file systems (of the network) have no sync of directories, and say EINVAL.
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
