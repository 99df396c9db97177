package nbd

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ghost writes. A client that has waited too long for a reply gives its socket up, opens
// another and sends its requests again; newer requests follow on the new socket. What
// still lies on the old one must not be applied then: it would put old data over new,
// replied data. The server may have been the reason for the wait (a slow disk, a
// suspended machine, SIGSTOP), so the old requests may be anywhere on their way:
//
//   - In the Device, waiting for their place in the order. Every change is given admit,
//     which the Device asks under the lock of that order. What it admits comes before
//     everything that a successor's requests can do, because those are read later;
//     what it refuses is never done.
//   - In the read buffer, or with a worker. The same admit covers them. A request is
//     applied without further question only if no other connection has changed the export
//     since this one last did, and if its bytes were read a moment ago (doubtAfter): no
//     client gives up that soon. Otherwise its socket must show no sign of hang-up at that
//     very moment.
//   - In the socket. Bytes that a read returns are young by the clock, but may have lain
//     in the socket while this process slept. So when the last read was long ago
//     (staleAfter), the socket must show that the client is there before what was read
//     counts as young. A client that was merely idle passes this look.
//
// A hang-up is seen by poll as soon as the host knows of it, even while unread requests
// lie before it in the stream. What can't be seen is a client that gave up and whose host
// has not told ours: a cut network, or a FIN that waits behind more requests than the
// socket's buffers hold.
//
// A client that says DISC and then leaves has asked for its outstanding requests to be
// finished, so age alone raises no doubt once DISC is in the read buffer, or in the socket
// (goodbye.go), wherever the requests before it are. But once another connection has changed the
// export, these requests would come out of order after that one's, and are dropped.

const (
	// doubtAfter is the age from which on a request is applied only after a look at its
	// socket. Clients' timeouts are seconds; the look costs a microsecond.
	doubtAfter = 100 * time.Millisecond
	// staleAfter is the time between two reads from which on the bytes of the second are
	// not trusted to be fresh.
	staleAfter = 500 * time.Millisecond
)

// admit reports whether a change whose bytes were read at received may be applied now.
// saidGoodbye is asked when the client has left: whether a DISC lies in its socket. The
// Device calls it under the lock of its order, so that between the answer and the change's
// place in the order no other change is admitted.
func (c *conn) admit(received time.Time, saidGoodbye func() bool) bool {
	if c.gone.Load() {
		return false
	}
	alone := c.export.changes.Load() == c.changesSeen.Load()
	young := c.disconnecting.Load() || time.Since(received) < doubtAfter
	if !(alone && young) && c.hungUp() {
		if !alone || !saidGoodbye() {
			c.gone.Store(true)
			return false
		}
		c.disconnecting.Store(true)
	}
	c.changesSeen.Store(c.export.changes.Add(1))
	return true
}

// settleDoubt looks whether the client is still there if what was just read may have
// waited in the socket for long. One that left in order is.
func (c *conn) settleDoubt() {
	if !c.stale {
		return
	}
	c.stale = false
	if !c.disconnecting.Load() && c.hungUp() && !c.endsInSocket() {
		c.gone.Store(true)
	}
}

// hungUp reports whether the client has closed the connection, at least in its sending
// direction, or the connection is broken. It does not wait.
func (c *conn) hungUp() bool {
	if c.raw == nil {
		return false
	}
	hungUp := true // when the socket is closed already
	_ = c.raw.Control(func(fd uintptr) { hungUp = socketHungUp(fd) })
	return hungUp
}

// moreInSocket reports whether bytes that the client has sent wait in the socket.
func (c *conn) moreInSocket() bool {
	c.waiting = 0
	if c.raw != nil {
		_ = c.raw.Control(c.look) // fails when the socket is closed: nothing waits then
	}
	return c.waiting > 0
}

// socketHungUp is hungUp for a socket.
func socketHungUp(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(poll, 0)
		switch err {
		case nil:
			return poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		case syscall.EINTR:
		default:
			return true // poll can't fail so; refuse rather than guess
		}
	}
}
