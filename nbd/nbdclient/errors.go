package nbdclient

import (
	"errors"
	"fmt"

	"jnbd/nbd"
)

// ErrProtocol is wrapped by errors that say: the other side does not speak NBD, or breaks
// its rules. The connection is of no use any more.
var ErrProtocol = errors.New("protocol error")

// ErrClosed is what calls return after Close or Disconnect.
var ErrClosed = errors.New("nbd connection is closed")

// RefusedError is a server's refusal of an option. The handshake may go on.
type RefusedError struct {
	Option string      // what was asked for, in words
	Kind   RefusalKind // why not
	Text   string      // the server's own words, may be empty
}

func (e *RefusedError) Error() string {
	why := e.Text
	if why == "" {
		why = e.Kind.String()
	}
	return fmt.Sprintf("the server refuses %s: %s", e.Option, why)
}

// String is the reason in a few words.
func (k RefusalKind) String() string {
	switch k {
	case RefusedUnsupported:
		return "it does not support that"
	case RefusedPolicy:
		return "its policy forbids that"
	case RefusedInvalid:
		return "it takes the request for malformed"
	case RefusedPlatform:
		return "it was built without that"
	case RefusedNeedTLS:
		return "it wants TLS first"
	case RefusedUnknown:
		return "it has no such export"
	case RefusedShutdown:
		return "it is stopping"
	case RefusedBlockSize:
		return "it wants clients that heed its block sizes"
	case RefusedTooBig:
		return "too long"
	}
	return fmt.Sprintf("error %#x", uint32(k))
}

// RequestError is a request that the server has failed. The connection goes on.
type RequestError struct {
	Command Command
	Offset  uint64
	Length  uint32
	Errno   nbd.Errno // as the server sent it
	Text    string    // the server's own words, may be empty
}

func (e *RequestError) Error() string {
	text := fmt.Sprintf("%v of %d bytes at %d: server says %v", e.Command, e.Length, e.Offset, e.Errno)
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// breach is an ErrProtocol with its story.
func breach(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
