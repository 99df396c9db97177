package journal

import (
	"io"

	"jnbd/nbd"
)

// backend is the contract of github.com/pojntfx/go-nbd's servers, in its own words.
type backend interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Sync() error
}

// The compiler is this test: the engine fits the protocol server, and other Go NBD servers, by shape.
var (
	_ backend          = (*Disk)(nil)
	_ nbd.Device       = (*Disk)(nil)
	_ nbd.CachedReader = (*Disk)(nil)
	_ nbd.DirectWriter = (*Disk)(nil)
)
