// Package disk is the seam to the host: everything jnbd stores goes through a
// Device, and everything it believes of devices is said here.
//
// What is assumed of a device:
//
//   - A write that returned is seen by every later read, also by another process.
//   - A write that returned survives the death of the process, not the loss of power.
//   - A Flush that returned nil makes every write that had returned before Flush was
//     called survive the loss of power. It promises nothing of writes that run beside it.
//   - Writes that no Flush has covered may survive, be lost, or be torn at 512-byte
//     sectors, in any combination and any order.
//   - A Flush that failed says nothing of what survived, and asking again proves nothing:
//     the kernel may have dropped the dirty pages. Nobody above retries a Flush.
//   - A sector that no write touches never changes.
package disk

import "errors"

// Device is a flat range of bytes. All methods may be called at the same time.
// Implementations keep neither p nor bufs after they return.
type Device interface {
	// ReadAt fills p from off, like io.ReaderAt: n < len(p) only with an error.
	ReadAt(p []byte, off int64) (n int, err error)
	// WriteAt writes all of p at off, like io.WriterAt. On return the bytes are the
	// kernel's: they survive this process, and a power loss only after Flush.
	WriteAt(p []byte, off int64) (n int, err error)
	// Flush makes every write that returned before the call durable.
	Flush() error
	// Size is the length in bytes. Reads and writes beyond it fail.
	Size() int64
}

// VectorWriter is a Device that gathers: one call, one contiguous range, many buffers.
type VectorWriter interface {
	// WriteVAt writes the buffers one after the other from off on, all or an error.
	WriteVAt(bufs [][]byte, off int64) (n int64, err error)
}

// Zeroer is a Device that can zero a range without being sent the zeros.
type Zeroer interface {
	// Zero makes [off, off+n) read as zeros. With punch the space may be given back to
	// the host; without, it stays (or becomes) allocated, so that a later write there
	// can't run out of space. Durable after Flush. Costs O(extents), not O(bytes).
	Zero(off, n int64, punch bool) error
}

// CachedReader is a Device that can say "not without waiting".
type CachedReader interface {
	// ReadCachedAt fills p if the bytes are in memory. Otherwise it returns
	// ErrNotCached at once, with the content of p undefined.
	ReadCachedAt(p []byte, off int64) error
}

// DirectReader is a Device that can read what its medium holds, past the page cache.
type DirectReader interface {
	// ReadDirectAt is ReadAt from the medium. Any offset and length will do.
	ReadDirectAt(p []byte, off int64) (n int, err error)
}

// DirectWriter is a Device that can write past the page cache: no memory of the host's, no
// copy. Writes of either kind to neighbouring blocks may run side by side only where no
// 2 MiB-aligned range of the device gets both: the kernel drops cached pages around a direct
// write, and takes it for a failure of the file when they are dirty.
type DirectWriter interface {
	// WriteDirectVAt writes the buffers one after the other from off on past the page cache, where the
	// host can, all or an error. Any offset, lengths and memory will do; only whole blocks of 4 KiB go
	// past the cache, and only buffers that begin on a page go without a copy, as one write.
	WriteDirectVAt(bufs [][]byte, off int64) (n int64, err error)
}

// Extenter is a Device that knows where its holes are.
type Extenter interface {
	// Extents calls visit for consecutive pieces of [off, off+n) in order, until visit
	// returns false. hole means: unallocated, reads as zeros.
	Extents(off, n int64, visit func(off, n int64, hole bool) bool) error
}

// ErrNotCached is ReadCachedAt's "this read would wait for the medium".
var ErrNotCached = errors.New("not in the page cache")

// ErrOutOfRange is wrapped by every access beyond a device's size.
var ErrOutOfRange = errors.New("beyond the end of the device")
