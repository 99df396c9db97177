package disk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Extents visits holes and data as the file system tells them apart (SEEK_DATA, SEEK_HOLE).
// Space that is allocated but was never written counts as a hole: it reads as zeros. A
// block device, or a file system that doesn't tell, is one allocated piece.
func (f *File) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	for end := off + n; ; {
		next, hole, err := f.nextExtent(off, end-off)
		if err != nil {
			return err
		}
		if off == end || !visit(off, next-off, hole) {
			return nil
		}
		off = next
	}
}

// nextExtent is the kind and end of the piece that begins at off. The file is not held open
// while the caller visits it, so that a visit may do what it likes.
func (f *File) nextExtent(off, n int64) (next int64, hole bool, err error) {
	if err := f.use("extents of", off, n); err != nil {
		return 0, false, err
	}
	defer f.life.RUnlock()
	end := off + n
	if f.block || n == 0 {
		return end, false, nil
	}
	data, err := seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data up to the end of the file
		return end, true, nil
	case errors.Is(err, unix.EINVAL):
		return end, false, nil
	case err != nil:
		return 0, false, f.failAt("extents of", off, n, err)
	case data > off:
		return min(data, end), true, nil
	}
	next, err = seek(f.fd, off, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // the file was cut short meanwhile
		return end, false, nil
	}
	if err != nil {
		return 0, false, f.failAt("extents of", off, n, err)
	}
	if next <= off { // a hole was punched meanwhile; it was data when asked
		next = min(off+minSector, end)
	}
	return min(next, end), false, nil
}

// seek asks about the file only: nothing here uses the position that it moves.
func seek(fd int, off int64, whence int) (to int64, err error) {
	err = retry(func() error {
		to, err = unix.Seek(fd, off, whence)
		return err
	})
	return to, err
}
