package nbd

import "errors"

// Device is the disk that an export serves, in plain types, so that the engine
// satisfies it by shape and neither package knows the other. All methods may be called
// at the same time. The server checks ranges, flags and read-only before it calls.
//
// Buffers belong to the server: a Device keeps none of them after it returns.
type Device interface {
	// Size is the export's length in bytes. It returns an error by the contract of other
	// Go NBD backends.
	Size() (int64, error)
	// ReadAt fills p, seeing every change that any connection was told is done.
	ReadAt(p []byte, off int64) (int, error)
	// WriteBatch performs writes in the order given, each whole or not at all. On return
	// they survive the death of this process. admit is called once, under the lock that
	// gives the total order, just before the batch gets its place in it; when it reports
	// false nothing is done and ErrDropped, or an error with a method Dropped, is returned
	// (trap 1, ghost writes). The batch may wait for space; it never fails for lack of it.
	// flush says that a Sync follows at once, which a journal can make cheaper; it demands nothing.
	WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error
	// Zero makes [off, off+n) read as zeros, durable and ordered like a write. With punch
	// the space may be given back. n may be far beyond 4 GiB; the cost is O(1).
	Zero(off, n int64, punch bool, admit func() bool) error
	// Trim declares [off, off+n) unneeded. It reads as zeros from then on.
	Trim(off, n int64, admit func() bool) error
	// Sync makes everything that was done before the call durable against power loss.
	Sync() error
	// Extents calls visit for consecutive pieces of [off, off+n), in order, until visit
	// returns false. hole: no space is held for it; zero: it reads as zeros.
	Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error
}

// CachedReader is a Device that can answer a read without waiting for the medium.
type CachedReader interface {
	// ReadCachedAt fills p and reports true, or reports false (p undefined) when the read
	// would wait or failed; the server then asks ReadAt from its worker pool.
	ReadCachedAt(p []byte, off int64) bool
}

// DirectWriter is a Device that may give the medium large payloads right out of their buffers, past the
// host's page cache.
type DirectWriter interface {
	// WritesDirect reports whether the last large write did. It is a hint: nothing but speed depends on it.
	WritesDirect() bool
}

// ErrDropped is WriteBatch's, Zero's and Trim's answer when admit refused. A Device that
// does not know this package answers with an error of its own that has, anywhere in its
// chain, a method Dropped() bool which returns true.
var ErrDropped = errors.New("request dropped: its connection is gone")

// isDropped reports whether err says that admit refused.
func isDropped(err error) bool {
	var own interface{ Dropped() bool }
	return errors.Is(err, ErrDropped) || errors.As(err, &own) && own.Dropped()
}
