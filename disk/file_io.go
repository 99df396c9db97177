package disk

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// iovMax is the most buffers that one system call takes (IOV_MAX).
const iovMax = 1024

// ReadAt fills p from off. A read beyond Size, or of a file that was cut short behind our
// back, fails with an error that wraps ErrOutOfRange; n bytes are good even then.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := f.use("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.life.RUnlock()
	n, err := readFull(f.fd, p, off)
	if err != nil {
		return n, f.failAt("read", off, int64(len(p)), err)
	}
	return n, nil
}

// readFull reads until p is full, through signals and short reads.
func readFull(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], off+int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return n, err
		case k == 0:
			return n, fmt.Errorf("the file ends at %d, it was cut short while in use: %w", off+int64(n), ErrOutOfRange)
		default:
			n += k
		}
	}
	return n, nil
}

// ReadCachedAt fills p if all of it is in the page cache (RWF_NOWAIT). Everything else but
// a range beyond the disk is ErrNotCached; an I/O error is then ReadAt's to find.
func (f *File) ReadCachedAt(p []byte, off int64) error {
	if err := f.use("read", off, int64(len(p))); err != nil {
		return err
	}
	defer f.life.RUnlock()
	if len(p) == 0 {
		return nil
	}
	if f.noNowait.Load() {
		return ErrNotCached
	}
	n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		f.noNowait.Store(true)
	}
	if err != nil || n < len(p) {
		return ErrNotCached
	}
	return nil
}

// WriteAt writes all of p at off, into the page cache. It never makes the disk longer.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.useForWrite("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.life.RUnlock()
	return f.write(p, off)
}

// write is WriteAt while the caller holds the file open.
func (f *File) write(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		k, err := unix.Pwrite(f.fd, p[n:], off+int64(n))
		if err == nil && k == 0 {
			err = io.ErrShortWrite
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, f.failAt("write", off, int64(len(p)), err)
		}
		n += max(0, k)
	}
	return len(p), nil
}

// WriteBack begins to write the range's dirty pages (sync_file_range). What fails then is marked in
// the file by the kernel, and the next Flush returns it: only a call that waits takes such a
// mark away.
func (f *File) WriteBack(off, n int64) {
	if f.useForWrite("write back", off, n) != nil {
		return
	}
	defer f.life.RUnlock()
	_ = unix.SyncFileRange(f.fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// WriteVAt writes the buffers one after the other from off on, by as few pwritev calls as
// the kernel takes.
func (f *File) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	if err := f.useForWrite("write", off, total(bufs)); err != nil {
		return 0, err
	}
	defer f.life.RUnlock()
	return f.writeV(bufs, off)
}

// writeV is WriteVAt while the caller holds the file open.
func (f *File) writeV(bufs [][]byte, off int64) (int64, error) {
	n, err := gather(f.fd, bufs, off)
	if err != nil {
		return n, f.failAt("write", off, total(bufs), err)
	}
	return n, nil
}

// gather writes the buffers one after the other from off on.
func gather(fd int, bufs [][]byte, off int64) (n int64, err error) {
	for left := total(bufs); n < left; {
		k, err := pwritev(fd, bufs[:min(len(bufs), iovMax)], off+n)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && k == 0 && total(bufs[:min(len(bufs), iovMax)]) > 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
		n += int64(k)
		bufs = after(bufs, k)
	}
	return n, nil
}

// after is what is left of bufs when a write took n bytes of them. The caller's slice is not
// changed: what begins within a buffer continues in a copy.
func after(bufs [][]byte, n int) [][]byte {
	i := 0
	for i < len(bufs) && n >= len(bufs[i]) {
		n -= len(bufs[i])
		i++
	}
	if n == 0 {
		return bufs[i:]
	}
	rest := append([][]byte(nil), bufs[i:]...)
	rest[0] = rest[0][n:]
	return rest
}

// Flush makes the bytes of all writes that have returned durable (fdatasync), and the size.
// After an error the kernel may have dropped what it could not write: see Device.
func (f *File) Flush() error {
	if err := f.use("flush", 0, 0); err != nil {
		return err
	}
	defer f.life.RUnlock()
	// A signal that interrupts the wait is no failed write; the wait goes on.
	if err := retry(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return f.fail("flush", err)
	}
	return nil
}

// SyncAll is Flush with the file's times and mode (fsync).
func (f *File) SyncAll() error {
	if err := f.use("sync", 0, 0); err != nil {
		return err
	}
	defer f.life.RUnlock()
	if err := retry(func() error { return unix.Fsync(f.fd) }); err != nil {
		return f.fail("sync", err)
	}
	return nil
}

// ModTime is when the file's content last changed, as the file system saw it, to notice
// writes by others. For a block device it is the time of its node, which says nothing.
func (f *File) ModTime() (time.Time, error) {
	if err := f.use("stat", 0, 0); err != nil {
		return time.Time{}, err
	}
	defer f.life.RUnlock()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return time.Time{}, f.fail("stat", err)
	}
	return time.Unix(st.Mtim.Unix()), nil
}
