package disk

import "fmt"

// What a caller does with a Device that may lack a capability: it calls the function here,
// which uses the capability where there is one and does without it where there is none.
//
//	WriteV      VectorWriter   else one WriteAt per buffer
//	Zero        Zeroer         else writes zeros
//	ReadCached  CachedReader   else ErrNotCached
//	ReadDirect  DirectReader   else ReadAt
//	WriteDirect DirectWriter   else WriteV
//	Extents     Extenter       else one allocated extent
//	Discard     Discarder      else nothing: it is advice
//	Allocate    Allocator      else nothing: the device has no space to run out of
//	WriteBack   WriteBacker    else nothing: it is advice

// Discarder is a Device that can be told that a range's content is no longer needed.
type Discarder interface {
	// Discard gives [off, off+n) back to the host. What the range reads as afterwards is
	// undefined until it is written again: zeros, the old bytes, or something else. It is
	// advice, and a host that can't follow it is not an error. Who needs zeros calls Zero.
	Discard(off, n int64) error
}

// Allocator is a Device whose host may run out of space under it.
type Allocator interface {
	// Allocate makes sure that later writes to [off, off+n) find space. Content does not
	// change. The error wraps ENOSPC when the host is full, and errors.ErrUnsupported when
	// the host has no such call; then only writing reserves space.
	Allocate(off, n int64) error
}

// WriteBacker is a Device whose writes wait in a cache of the host for a Flush.
type WriteBacker interface {
	// WriteBack begins to write [off, off+n) out of the cache to the medium, so that a later
	// Flush finds less to do. It makes nothing durable, waits for no medium that has room for
	// more requests, and tells no error: one that the medium reports is the next Flush's.
	WriteBack(off, n int64)
}

// zeroPiece is the most that one write of zeros takes, in bytes.
const zeroPiece = 1 << 20

// zeros is what writeZeros sends. It is never written.
var zeros [zeroPiece]byte

// CheckRange reports, wrapping ErrOutOfRange, that [off, off+n) does not lie in a device of
// size bytes.
func CheckRange(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at %d of %d: %w", n, off, size, ErrOutOfRange)
	}
	return nil
}

// WriteV writes the buffers one after the other from off on. With a VectorWriter it is one
// write; otherwise it is several, and an error leaves the first of them written.
func WriteV(dev Device, bufs [][]byte, off int64) error {
	if v, ok := dev.(VectorWriter); ok {
		_, err := v.WriteVAt(bufs, off)
		return err
	}
	_, err := writeEach(dev, bufs, off)
	return err
}

// writeEach is WriteVAt by WriteAt.
func writeEach(dev Device, bufs [][]byte, off int64) (n int64, err error) {
	if err := CheckRange(off, total(bufs), dev.Size()); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		k, err := dev.WriteAt(b, off+n)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// total is the length of all buffers together, in bytes.
func total(bufs [][]byte) (n int64) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	return n
}

// Zero makes [off, off+n) read as zeros; see Zeroer. A device without it gets the zeros
// written, in pieces of at most 1 MiB, which costs O(bytes) and gives back no space.
func Zero(dev Device, off, n int64, punch bool) error {
	if z, ok := dev.(Zeroer); ok {
		return z.Zero(off, n, punch)
	}
	if err := CheckRange(off, n, dev.Size()); err != nil {
		return fmt.Errorf("zero: %w", err)
	}
	return writeZeros(dev, off, n)
}

// writeZeros writes zeros over [off, off+n), which lies in the device.
func writeZeros(dev Device, off, n int64) error {
	for n > 0 {
		k := min(n, zeroPiece)
		if _, err := dev.WriteAt(zeros[:k], off); err != nil {
			return fmt.Errorf("zero: %w", err)
		}
		off, n = off+k, n-k
	}
	return nil
}

// FillZeros gives write the zeros of size bytes, in pieces of at most piece bytes, whose memory begins on a
// page if they are larger than 32 KiB. progress, if not nil, is called after each with bytes.
func FillZeros(size, piece int64, write func(p []byte, off int64) (int, error), progress func(done, total int64)) error {
	zeros := make([]byte, min(size, piece))
	for done := int64(0); done < size; {
		n := min(size-done, int64(len(zeros)))
		if _, err := write(zeros[:n], done); err != nil {
			return fmt.Errorf("write %d zeros at %d: %w", n, done, err)
		}
		done += n
		if progress != nil {
			progress(done, size)
		}
	}
	return nil
}

// ReadCached fills p if that needs no wait for the medium, and otherwise returns
// ErrNotCached, as a device without CachedReader always does.
func ReadCached(dev Device, p []byte, off int64) error {
	if c, ok := dev.(CachedReader); ok {
		return c.ReadCachedAt(p, off)
	}
	return ErrNotCached
}

// ReadDirect reads past the page cache; a device without DirectReader has none to pass.
func ReadDirect(dev Device, p []byte, off int64) (n int, err error) {
	if d, ok := dev.(DirectReader); ok {
		return d.ReadDirectAt(p, off)
	}
	return dev.ReadAt(p, off)
}

// WriteDirect writes the buffers one after the other from off on, past the page cache; a device without
// DirectWriter has none to pass.
func WriteDirect(dev Device, bufs [][]byte, off int64) error {
	if d, ok := dev.(DirectWriter); ok {
		_, err := d.WriteDirectVAt(bufs, off)
		return err
	}
	return WriteV(dev, bufs, off)
}

// Extents calls visit for consecutive pieces of [off, off+n) until visit returns false. A
// device without Extenter is one allocated piece.
func Extents(dev Device, off, n int64, visit func(off, n int64, hole bool) bool) error {
	if e, ok := dev.(Extenter); ok {
		return e.Extents(off, n, visit)
	}
	if err := CheckRange(off, n, dev.Size()); err != nil {
		return fmt.Errorf("extents: %w", err)
	}
	if n > 0 {
		visit(off, n, false)
	}
	return nil
}

// Discard says that [off, off+n) is no longer needed; see Discarder.
func Discard(dev Device, off, n int64) error {
	if d, ok := dev.(Discarder); ok {
		return d.Discard(off, n)
	}
	if err := CheckRange(off, n, dev.Size()); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	return nil
}

// Allocate makes sure that later writes to [off, off+n) find space; see Allocator.
func Allocate(dev Device, off, n int64) error {
	if a, ok := dev.(Allocator); ok {
		return a.Allocate(off, n)
	}
	if err := CheckRange(off, n, dev.Size()); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	return nil
}

// WriteBack begins to write [off, off+n) out of the host's cache; see WriteBacker.
func WriteBack(dev Device, off, n int64) {
	if d, ok := dev.(WriteBacker); ok {
		d.WriteBack(off, n)
	}
}
