package disk

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign suits the O_DIRECT rules of every host: offset, length and address in memory.
const directAlign = 4096

// directPiece is the most that one direct read takes, in bytes.
const directPiece = 1 << 20

// directFile is a second opening of the file, with O_DIRECT, made when first needed.
type directFile struct {
	mu      sync.Mutex
	fd      int  // guarded by mu; -1: not open; File.life keeps it open once it is
	refused bool // guarded by mu; the file system has no O_DIRECT
}

// ReadDirectAt reads what the medium holds, past the page cache, for trusting bytes after a
// failed flush. Bytes that are still dirty in the cache are written first, by the kernel.
// Where the file system has no O_DIRECT, the clean pages of the range are dropped and then
// read; a file system that lives in memory has no other medium.
func (f *File) ReadDirectAt(p []byte, off int64) (int, error) {
	if err := f.use("read directly", off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.life.RUnlock()
	fd, err := f.direct.open(f.fd, f.readOnly)
	if err != nil {
		return 0, f.failAt("read directly", off, int64(len(p)), err)
	}
	var n int
	if fd >= 0 {
		n, err = readAligned(fd, p, off)
		if errors.Is(err, unix.EINVAL) { // opens, but reads not: some network file systems
			fd = -1
		}
	}
	if fd < 0 {
		_ = unix.Fadvise(f.fd, off, int64(len(p)), unix.FADV_DONTNEED) // advice: nothing to do about it
		n, err = readFull(f.fd, p, off)
	}
	if err != nil {
		return n, f.failAt("read directly", off, int64(len(p)), err)
	}
	return n, nil
}

// WriteDirectVAt writes the buffers one after the other from off on past the page cache: as one write
// those whose memory begins on a page, others through pages of its own. Where not all are whole blocks
// of 4 KiB, and on a file system without O_DIRECT, it is an ordinary write.
func (f *File) WriteDirectVAt(bufs [][]byte, off int64) (int64, error) {
	size := total(bufs)
	if err := f.useForWrite("write directly", off, size); err != nil {
		return 0, err
	}
	defer f.life.RUnlock()
	if !wholeBlocks(bufs, off) {
		return f.writeV(bufs, off)
	}
	fd, err := f.direct.open(f.fd, f.readOnly)
	if err != nil {
		return 0, f.failAt("write directly", off, size, err)
	}
	if fd < 0 {
		return f.writeV(bufs, off)
	}
	n, err := gatherDirect(fd, bufs, off)
	if errors.Is(err, unix.EINVAL) { // opens, but writes not
		return f.writeV(bufs, off)
	}
	if err != nil {
		return n, f.failAt("write directly", off, size, err)
	}
	return n, nil
}

// wholeBlocks reports whether all of bufs are whole blocks when they are written from off on.
func wholeBlocks(bufs [][]byte, off int64) bool {
	for _, p := range bufs {
		off |= int64(len(p))
	}
	return off%directAlign == 0
}

// onPage reports whether p may be written with O_DIRECT as it lies in memory.
func onPage(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0
}

// gatherDirect writes whole blocks, those that lie on pages together.
func gatherDirect(fd int, bufs [][]byte, off int64) (n int64, err error) {
	for len(bufs) > 0 {
		together := 0
		for together < len(bufs) && onPage(bufs[together]) {
			together++
		}
		k, err := gather(fd, bufs[:together], off+n)
		n += k
		if err == nil && together < len(bufs) {
			k, err = writeCopied(fd, bufs[together], off+n)
			n += k
			together++
		}
		if err != nil {
			return n, err
		}
		bufs = bufs[together:]
	}
	return n, nil
}

// writeCopied writes whole blocks through pages of its own.
func writeCopied(fd int, p []byte, off int64) (n int64, err error) {
	own := alignedBuffer(min(directPiece, len(p)))
	for n < int64(len(p)) && err == nil {
		var k int64
		k, err = gather(fd, [][]byte{own[:copy(own, p[n:])]}, off+n)
		n += k
	}
	return n, err
}

// open is the O_DIRECT twin of fd, or -1 where there can't be one.
func (d *directFile) open(fd int, readOnly bool) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd >= 0 || d.refused {
		return d.fd, nil
	}
	// By this name it is the same file, whatever became of the path.
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	twin, err := openRetry(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		d.refused = true
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open with O_DIRECT: %w", err)
	}
	d.fd = twin
	return twin, nil
}

func (d *directFile) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd >= 0 {
		_ = unix.Close(d.fd) // what it wrote went past the cache: it has nothing to lose
		d.fd = -1
	}
}

// readAligned reads by whole, aligned pieces and copies out of them.
func readAligned(fd int, p []byte, off int64) (n int, err error) {
	buf := alignedBuffer(int(min(directPiece, roundUp(int64(len(p)), directAlign)+directAlign)))
	for n < len(p) {
		at := off + int64(n)
		skip := int(at % directAlign)
		want := min(len(p)-n, len(buf)-skip)
		whole := int(roundUp(int64(skip+want), directAlign))
		got, err := unix.Pread(fd, buf[:whole], at-int64(skip))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		if got <= skip {
			return n, fmt.Errorf("the file ends at %d, it was cut short while in use: %w", at-int64(skip)+int64(got), ErrOutOfRange)
		}
		n += copy(p[n:n+want], buf[skip:got])
	}
	return n, nil
}

// alignedBuffer is n bytes that begin on a directAlign address.
func alignedBuffer(n int) []byte {
	raw := make([]byte, n+directAlign)
	shift := -uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % directAlign
	return raw[shift:][:n:n]
}
