package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A File, from its path to its close:
//
//  1. Look before opening: what is neither an image file nor a block device is refused.
//  2. Open, or create (file_create.go). A block device for writing is opened exclusively,
//     so that a mounted one is refused.
//  3. Lock the file against other processes (file_lock.go), and only then
//  4. ask for its size, which the holder of the lock alone may change.
//  5. Reads, writes and flushes (file_io.go); zeros, space (file_space.go); holes
//     (file_extents.go); i/o past the page cache (file_direct.go).
//  6. Close waits for the calls that run, and lets go of the lock.
//
// All I/O but ReadDirectAt goes through the page cache: O_DIRECT and buffered writes never
// meet on one range.

// ErrNotDisk is wrapped by OpenFile for a path that is neither a regular file nor a block
// device.
var ErrNotDisk = errors.New("neither an image file nor a block device")

// ErrLocked is wrapped by OpenFile for a disk that another process has in use.
var ErrLocked = errors.New("in use by another process")

// errReadOnly is the cause of a write to a disk that was opened for reading.
var errReadOnly = fmt.Errorf("the disk was opened read-only: %w", fs.ErrPermission)

// FileOptions says how OpenFile opens. The zero value opens an existing disk for reading
// and writing, locked.
type FileOptions struct {
	// ReadOnly refuses writes, and shares the lock with other readers.
	ReadOnly bool
	// Create makes a new image file of Size bytes. A path that exists is an error that
	// wraps fs.ErrExist.
	Create bool
	// Size of the new file in bytes. Without Create it is ignored.
	Size int64
	// NoLock takes no lock: for looking at a disk that may be in use.
	NoLock bool
}

// File is an image file or a block device.
type File struct {
	path       string
	block      bool
	readOnly   bool
	sectorSize int
	size       atomic.Int64 // bytes; Truncate changes it
	noNowait   atomic.Bool  // the file system knows no RWF_NOWAIT

	// life is held for reading during every use of fd, so that no call can run on a number
	// that the kernel has given to another file.
	life sync.RWMutex
	fd   int // guarded by life; -1 when closed

	direct directFile
}

var (
	_ VectorWriter = (*File)(nil)
	_ Zeroer       = (*File)(nil)
	_ CachedReader = (*File)(nil)
	_ DirectReader = (*File)(nil)
	_ DirectWriter = (*File)(nil)
	_ Extenter     = (*File)(nil)
	_ Discarder    = (*File)(nil)
	_ Allocator    = (*File)(nil)
	_ WriteBacker  = (*File)(nil)
)

// OpenFile opens the image file or block device at path. Errors wrap fs.ErrNotExist,
// fs.ErrExist, fs.ErrPermission, ErrNotDisk or ErrLocked where that is the cause. After an
// error nothing is open or locked, and no new file is left behind.
func OpenFile(path string, opt FileOptions) (*File, error) {
	if opt.Create {
		return createFile(path, opt)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	if err := checkKind(path, info.Mode()); err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	flags := unix.O_RDWR
	if opt.ReadOnly {
		flags = unix.O_RDONLY
	}
	block := info.Mode()&fs.ModeDevice != 0
	if block && !opt.ReadOnly && !opt.NoLock {
		flags |= unix.O_EXCL
	}
	fd, err := openRetry(path, flags, 0)
	if err != nil {
		if block && errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: it is mounted, or part of another device; unmount or detach it first: %w", ErrLocked, err)
		}
		return nil, fmt.Errorf("open disk %s: %w", path, err)
	}
	f := &File{path: path, block: block, readOnly: opt.ReadOnly, fd: fd, direct: directFile{fd: -1}}
	if err := f.prepare(opt); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open disk %s: %w", path, err)
	}
	return f, nil
}

// prepare locks the open file and learns its size.
func (f *File) prepare(opt FileOptions) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	want := uint32(unix.S_IFREG)
	if f.block {
		want = unix.S_IFBLK
	}
	if st.Mode&unix.S_IFMT != want {
		return fmt.Errorf("it was replaced while being opened: %w", ErrNotDisk)
	}
	if !opt.NoLock {
		if err := f.lock(); err != nil {
			return err
		}
	}
	if f.block {
		return f.measureBlockDevice()
	}
	// Again, now that nobody else can change it.
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	f.size.Store(st.Size)
	f.sectorSize = minSector
	return nil
}

// minSector is the smallest sector that a disk has, and that of image files, in bytes.
const minSector = 512

// checkKind refuses what can't be a disk, by name of its kind.
func checkKind(path string, mode fs.FileMode) error {
	kind := ""
	switch {
	case mode.IsRegular(), mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		return nil
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeCharDevice != 0:
		kind = "a character device"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	default:
		kind = "a special file"
	}
	return fmt.Errorf("%s is %s: %w", path, kind, ErrNotDisk)
}

// Path is the name that the disk was opened by.
func (f *File) Path() string { return f.path }

// BlockDevice reports whether the disk is a block device.
func (f *File) BlockDevice() bool { return f.block }

// ReadOnly reports whether writes are refused.
func (f *File) ReadOnly() bool { return f.readOnly }

// SectorSize is the logical sector in bytes: what the device writes at once. An image file
// says 512.
func (f *File) SectorSize() int { return f.sectorSize }

// Size is the length in bytes.
func (f *File) Size() int64 { return f.size.Load() }

// Close lets go of the lock and the file, after all calls that run have returned. It flushes
// nothing. Closing twice is an error that wraps fs.ErrClosed; so is every later call.
func (f *File) Close() error {
	f.life.Lock()
	defer f.life.Unlock()
	if f.fd < 0 {
		return f.fail("close", fs.ErrClosed)
	}
	f.direct.close()
	fd := f.fd
	f.fd = -1
	if err := unix.Close(fd); err != nil {
		return f.fail("close", err)
	}
	return nil
}

// use holds the file open for one operation and checks that [off, off+n) lies in it. After
// a nil error the caller calls f.life.RUnlock.
func (f *File) use(op string, off, n int64) error {
	f.life.RLock()
	err := CheckRange(off, n, f.size.Load())
	if f.fd < 0 {
		err = fs.ErrClosed
	}
	if err != nil {
		f.life.RUnlock()
		return f.fail(op, err)
	}
	return nil
}

// useForWrite is use for an operation that changes the disk.
func (f *File) useForWrite(op string, off, n int64) error {
	if f.readOnly {
		return f.fail(op, errReadOnly)
	}
	return f.use(op, off, n)
}

// fail gives err its place.
func (f *File) fail(op string, err error) error {
	return fmt.Errorf("%s %s: %w", op, f.path, err)
}

// failAt gives the error of an operation on n bytes at off its place.
func (f *File) failAt(op string, off, n int64, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: make room on the file system that holds it", err)
	}
	return fmt.Errorf("%s %s: %d bytes at %d: %w", op, f.path, n, off, err)
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openRetry is open(2), close-on-exec, through signals.
func openRetry(path string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, perm)
		return err
	})
	return fd, err
}
