package disk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Zero makes [off, off+n) read as zeros, by the first of these that the host knows:
//
//  1. with punch: fallocate PUNCH_HOLE, which gives the space back;
//  2. fallocate ZERO_RANGE, which keeps or takes it;
//  3. on a block device: BLKZEROOUT for the whole sectors;
//  4. writes of zeros.
//
// Durable after Flush, like a write. Where it comes to 4, or to a device that has no zeroing
// of its own, the cost is O(bytes).
func (f *File) Zero(off, n int64, punch bool) error {
	if err := f.useForWrite("zero", off, n); err != nil {
		return err
	}
	defer f.life.RUnlock()
	if n == 0 {
		return nil
	}
	// A block device zeros whole sectors; the rest of the range is less than two of them.
	first, length := off, n
	if f.block {
		first, length = f.sectorsIn(off, n)
		if length == 0 {
			return f.writeZeroPart(off, n)
		}
		if err := f.writeZeroPart(off, first-off); err != nil {
			return err
		}
		if err := f.writeZeroPart(first+length, off+n-first-length); err != nil {
			return err
		}
	}
	err := error(unix.EOPNOTSUPP)
	if punch {
		err = f.fallocate(unix.FALLOC_FL_PUNCH_HOLE, first, length)
	}
	if unsupported(err) {
		err = f.fallocate(unix.FALLOC_FL_ZERO_RANGE, first, length)
	}
	if unsupported(err) && f.block {
		err = f.ioctlRange(unix.BLKZEROOUT, first, length)
	}
	if unsupported(err) {
		return f.writeZeroPart(first, length)
	}
	if err != nil {
		return f.failAt("zero", off, n, err)
	}
	return nil
}

// writeZeroPart writes zeros while the caller holds the file open.
func (f *File) writeZeroPart(off, n int64) error {
	return writeZeros(heldFile{f}, off, n)
}

// heldFile writes to a file that the caller holds open already: a second hold would wait
// for ever when Close is waiting between the two.
type heldFile struct{ *File }

func (h heldFile) WriteAt(p []byte, off int64) (int, error) { return h.write(p, off) }

// Discard says that [off, off+n) is no longer needed. An image file punches a hole, and then
// reads zeros there; a block device discards its whole sectors (BLKDISCARD), and then may
// read anything there until they are written. A host that can't is no error.
func (f *File) Discard(off, n int64) error {
	if err := f.useForWrite("discard", off, n); err != nil {
		return err
	}
	defer f.life.RUnlock()
	var err error
	if f.block {
		if first, length := f.sectorsIn(off, n); length > 0 {
			err = f.ioctlRange(unix.BLKDISCARD, first, length)
		}
	} else if n > 0 {
		err = f.fallocate(unix.FALLOC_FL_PUNCH_HOLE, off, n)
	}
	if err != nil && !unsupported(err) {
		return f.failAt("discard", off, n, err)
	}
	return nil
}

// Allocate takes the space of [off, off+n) from the file system, so that later writes there
// can't fail for lack of it. A block device has it. The error wraps ENOSPC when the file
// system is full, and some of the range may then be allocated; when the file as a whole
// can't fit, that is noticed before anything is taken.
func (f *File) Allocate(off, n int64) error {
	if err := f.useForWrite("allocate", off, n); err != nil {
		return err
	}
	defer f.life.RUnlock()
	if f.block || n == 0 {
		return nil
	}
	if err := f.checkSpace(n); err != nil {
		return f.failAt("allocate", off, n, err)
	}
	err := f.fallocate(0, off, n)
	if unsupported(err) {
		err = fmt.Errorf("its file system can't reserve space: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return f.failAt("allocate", off, n, err)
	}
	return nil
}

// checkSpace fails when n bytes of this file can't fit, even if all that it holds already
// is part of them. fallocate itself would fill the file system first and fail then.
func (f *File) checkSpace(n int64) error {
	var st unix.Stat_t
	var host unix.Statfs_t
	if unix.Fstat(f.fd, &st) != nil || unix.Fstatfs(f.fd, &host) != nil || host.Blocks == 0 {
		return nil // then fallocate finds out
	}
	missing := n - st.Blocks*512 // st_blocks counts 512 bytes on every file system
	free := int64(host.Bavail) * host.Bsize
	if missing > free {
		return fmt.Errorf("%d bytes more are needed, %d are free: %w", missing, free, unix.ENOSPC)
	}
	return nil
}

// Truncate makes an image file longer, by a hole, or shorter. Durable after Flush. Calls
// that run beyond the new end may fail.
func (f *File) Truncate(size int64) error {
	if err := f.useForWrite("resize", 0, 0); err != nil {
		return err
	}
	defer f.life.RUnlock()
	if f.block {
		return f.fail("resize", fmt.Errorf("it is a block device, resize it with its own tools: %w", errors.ErrUnsupported))
	}
	if size < 0 {
		return f.fail("resize", fmt.Errorf("to %d bytes: %w", size, unix.EINVAL))
	}
	if err := retry(func() error { return unix.Ftruncate(f.fd, size) }); err != nil {
		return f.fail("resize", fmt.Errorf("to %d bytes: %w", size, err))
	}
	f.size.Store(size)
	return nil
}

// fallocate never changes the size: the range lies in the file.
func (f *File) fallocate(mode uint32, off, n int64) error {
	return retry(func() error { return unix.Fallocate(f.fd, mode|unix.FALLOC_FL_KEEP_SIZE, off, n) })
}

// unsupported reports that the host has no such operation, or not for this kind of file.
func unsupported(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY, unix.EINVAL, unix.ENODEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
