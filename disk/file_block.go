package disk

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What only block devices have: a size and a sector to ask for, and ranges given to ioctl.

// errNoMedium is the cause for a device of no bytes: an empty drive, or one not attached.
var errNoMedium = errors.New("the device has no bytes: is it attached?")

// measureBlockDevice learns size (BLKGETSIZE64) and sector (BLKSSZGET).
func (f *File) measureBlockDevice() error {
	var size uint64
	if err := ioctl(f.fd, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("ask for its size: %w", err)
	}
	if size == 0 {
		return errNoMedium
	}
	if size > 1<<63-1 {
		return fmt.Errorf("ask for its size: got %d bytes: %w", size, ErrOutOfRange)
	}
	var sector int32
	if err := ioctl(f.fd, unix.BLKSSZGET, unsafe.Pointer(&sector)); err != nil {
		return fmt.Errorf("ask for its sector size: %w", err)
	}
	f.size.Store(int64(size))
	f.sectorSize = max(minSector, int(sector))
	return nil
}

// ioctlRange performs BLKZEROOUT or BLKDISCARD on [off, off+n), which are whole sectors.
func (f *File) ioctlRange(request uintptr, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	return ioctl(f.fd, request, unsafe.Pointer(&span))
}

// sectorsIn is the part of [off, off+n) that is whole sectors, n = 0 if there is none.
func (f *File) sectorsIn(off, n int64) (first, length int64) {
	sector := int64(f.sectorSize)
	first, end := roundUp(off, sector), (off+n)/sector*sector
	return first, max(0, end-first)
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	return retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}
