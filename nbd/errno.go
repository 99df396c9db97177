package nbd

import (
	"errors"
	"io/fs"
	"syscall"
)

// Errno is an error number as it goes over the wire (proto.md, "Error values"). They look
// like Linux's, but are the protocol's own.
type Errno uint32

// The error numbers of the protocol.
const (
	EPERM     Errno = 1   // a change to a read-only export
	EIO       Errno = 5   // the disk failed
	ENOMEM    Errno = 12  // the server is out of memory
	EINVAL    Errno = 22  // the request is malformed, or asks for what was not offered
	ENOSPC    Errno = 28  // a write or zero past the end
	EOVERFLOW Errno = 75  // a read with DF that can't be answered in one piece
	ENOTSUP   Errno = 95  // a fast zero that would be slow
	ESHUTDOWN Errno = 108 // the server is stopping
)

// String is the number's name.
func (e Errno) String() string {
	switch e {
	case 0:
		return "success"
	case EPERM:
		return "EPERM"
	case EIO:
		return "EIO"
	case ENOMEM:
		return "ENOMEM"
	case EINVAL:
		return "EINVAL"
	case ENOSPC:
		return "ENOSPC"
	case EOVERFLOW:
		return "EOVERFLOW"
	case ENOTSUP:
		return "ENOTSUP"
	case ESHUTDOWN:
		return "ESHUTDOWN"
	}
	return "EIO"
}

// ErrShutdown is what a Device wraps to say that it is stopping. Clients get ESHUTDOWN.
var ErrShutdown = errors.New("shutting down")

// DefaultErrno is the error number for a Device's error when Server.Errno is nil. An
// error in err's chain with a method NBDErrno() uint32 decides for itself; otherwise
// ErrShutdown, and the few host errors that mean the same to a client, keep their
// meaning. Everything else is EIO.
func DefaultErrno(err error) Errno {
	var own interface{ NBDErrno() uint32 }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return Errno(own.NBDErrno())
	case errors.Is(err, ErrShutdown):
		return ESHUTDOWN
	case errors.Is(err, syscall.ENOSPC):
		return ENOSPC
	case errors.Is(err, syscall.ENOMEM):
		return ENOMEM
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return EPERM
	}
	return EIO
}
