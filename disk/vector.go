package disk

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vector is a list of buffers as pwritev takes it.
type vector [iovMax]unix.Iovec

// vectors are those that nobody uses. unix.Pwritev makes a list for each call, on the heap when
// it has more than eight buffers; a log that takes a batch in one write would do that for each.
var vectors = sync.Pool{New: func() any { return new(vector) }}

// pwritev writes at most iovMax buffers, one after the other, from off on, as far as the kernel
// takes them. It allocates nothing.
func pwritev(fd int, bufs [][]byte, off int64) (int, error) {
	v := vectors.Get().(*vector)
	n := 0
	for _, p := range bufs {
		if len(p) > 0 {
			v[n].Base = &p[0]
			v[n].SetLen(len(p))
			n++
		}
	}
	// The offset is two words; where one holds all of it, the kernel ignores the other.
	written, _, errno := unix.Syscall6(unix.SYS_PWRITEV, uintptr(fd), uintptr(unsafe.Pointer(v)), uintptr(n), uintptr(off), uintptr(off>>32), 0)
	clear(v[:n]) // the pool must not keep buffers alive
	vectors.Put(v)
	if errno != 0 {
		return 0, errno
	}
	return int(written), nil
}
