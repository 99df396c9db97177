package nbd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// A client that says DISC and then leaves looks, to a poll of its socket, like one that gave
// up. The reader may not have come to the DISC: what was sent before it waits for space in
// the Device, and the DISC lies in the socket. So before a change is dropped because its
// client is gone, the socket's unread bytes are looked at, without taking them. Through TLS
// they can't be read; such a client's changes are dropped, as if it had given up.

// maxPeek bounds what is looked at. Sockets of default size hold less.
const maxPeek = 1 << 20

// endsInSocket reports whether what is still unread ends in DISC. It is the reader's: it
// knows where in the stream the next request begins, so the requests before are walked.
func (c *conn) endsInSocket() bool {
	queue := c.peek()
	if queue == nil {
		return false
	}
	rest := c.input[c.from:c.to]
	unread := append(append(make([]byte, 0, len(rest)+len(queue)), rest...), queue...)
	return c.skip <= len(unread) && c.style.endsInDisconnect(unread[c.skip:])
}

// tailInSocket is endsInSocket for a worker, which does not know where in the stream the
// reader is: only the last bytes are looked at. A payload that looks like a DISC, of a client
// that gave up in the middle of the next request, passes for one. No harm comes of it: the
// change is done only if no other connection has changed the export.
func (c *conn) tailInSocket() bool {
	queue, head := c.peek(), c.style.requestSize()
	if len(queue) < head {
		return false
	}
	req, ok := c.style.decode(queue[len(queue)-head:])
	return ok && req.cmd == cmdDisc
}

// peek returns the bytes in the socket, at most maxPeek, or nil if there are more or none, or
// they can't be looked at.
func (c *conn) peek() []byte {
	if c.raw == nil || c.secure != nil {
		return nil
	}
	var queue []byte
	_ = c.raw.Control(func(fd uintptr) { queue = peekSocket(int(fd)) })
	return queue
}

// peekSocket is peek for a socket.
func peekSocket(fd int) []byte {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil || n == 0 || n > maxPeek {
		return nil
	}
	b := make([]byte, n)
	for {
		got, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || got != n:
			return nil
		default:
			return b
		}
	}
}

// endsInDisconnect reports whether the last of the requests that b begins with, each whole, is
// DISC, and ends b.
func (s style) endsInDisconnect(b []byte) bool {
	head := s.requestSize()
	last := len(b) - head
	if last < 0 {
		return false
	}
	if req, ok := s.decode(b[last:]); !ok || req.cmd != cmdDisc {
		return false
	}
	at := 0
	for at < last {
		req, ok := s.decode(b[at:])
		if !ok || req.cmd == cmdDisc || req.payload > uint64(last) {
			return false
		}
		at += head + int(req.payload)
	}
	return at == last
}
