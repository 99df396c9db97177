package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/nbd/nbdclient"
)

// A client of our own, beside fio and nbdcopy, for three things that they can't do:
//
//   - a flush after each so many writes with many requests in flight: fio 3.33 sends a flush
//     for nearly every write then (14,600 for 16,384 writes at --fsync=32, depth 32), because it
//     asks for the next one until the first is answered;
//   - the percentiles of every single second of a long run;
//   - a recorded trace, each request no earlier than those it waited for are answered.
//
// It is one thread on a blocking socket: what is ready to be sent goes in one write, and one
// read takes all replies that are there. So it needs a third of fio's processor time for a
// request.

// request is one request of a load.
type request struct {
	command nbdclient.Command
	offset  int64
	length  int
	fua     bool
	// after: it is sent once all requests before the one with this number were answered. The
	// first has number 0.
	after int
}

// source gives the requests of a load, one after the other; false is the end.
type source func() (request, bool)

// client is one connection.
type client struct {
	flags  nbdclient.Flags // of the export
	fd     int
	slots  []slot // by cookie
	free   []int  // slots that are not in use
	sent   int    // requests
	ahead  request
	have   bool // ahead counts: it waits for a slot, or for answers
	out    []byte
	tail   []byte // a large payload behind out, where it lies
	in     []byte
	inLen  int
	skip   int // bytes of a read's payload still to come
	tally  tally
	source source
	ended  bool // the source has
	data   []byte
}

// slot is a request in flight.
type slot struct {
	request
	used   bool
	number int
	began  time.Time
}

// Requests gather up to this many bytes before they are sent.
const sendAtOnce = 256 << 10

// sendInPlace is how large a payload may be to be copied behind its header.
const sendInPlace = 64 << 10

// largestRequest is the largest payload of a load.
const largestRequest = 32 << 20

// dial connects to uri.
func dial(uri string, depth int) (*client, error) {
	parsed, err := nbdclient.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	h, err := nbdclient.Dial(context.Background(), parsed, nbdclient.Options{})
	// A server's socket is there a moment before it listens.
	for deadline := time.Now().Add(time.Second); errors.Is(err, unix.ECONNREFUSED) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		h, err = nbdclient.Dial(context.Background(), parsed, nbdclient.Options{})
	}
	if err != nil {
		return nil, err
	}
	conn, info, err := h.Go(context.Background(), parsed.Export)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	fd, err := takeSocket(conn)
	if err != nil {
		return nil, err
	}
	c := &client{flags: info.Flags, fd: fd, slots: make([]slot, depth), in: make([]byte, 256<<10), data: incompressible(largestRequest)}
	for i := range depth {
		c.free = append(c.free, i)
	}
	return c, nil
}

// takeSocket takes a connection's socket away from Go's poller, which would be woken by every
// message beside the thread that waits for it, and makes it a blocking one.
func takeSocket(conn net.Conn) (fd int, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, errors.Join(err, conn.Close())
	}
	failed := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(failed, err, conn.Close()); err != nil {
		return 0, err
	}
	return fd, unix.SetNonblock(fd, false)
}

// incompressible is n bytes that no server could take for zeros, none of its pages as another.
func incompressible(n int) []byte {
	p := make([]byte, n)
	x := uint64(0x9e3779b97f4a7c15)
	for i := 0; i+8 <= n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
	return p
}

// run sends what the source gives, as fast as it goes, and returns when all is answered.
func (c *client) run(from source) (*tally, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.source = from
	c.tally.begin()
	for {
		more := c.gather()
		if !c.pending() && len(c.free) == len(c.slots) && c.skip == 0 {
			c.tally.end()
			return &c.tally, nil
		}
		if err := c.exchange(more); err != nil {
			return nil, err
		}
	}
}

// gather puts requests that may go now behind each other. It reports whether there may be more
// of them than go at once.
func (c *client) gather() bool {
	for len(c.free) > 0 {
		if len(c.out) >= sendAtOnce || len(c.tail) > 0 {
			return true
		}
		if !c.have && !c.ended {
			c.ahead, c.have = c.source()
			c.ended = !c.have
		}
		if !c.have || c.ahead.after > c.oldest() {
			return false
		}
		c.have = false
		if c.lacks(c.ahead.command) {
			c.sent++ // it counts as answered
			continue
		}
		c.put(c.ahead)
	}
	return false
}

// lacks tells of a request that the server does not know, and that changes nothing for a reader of
// a new disk.
func (c *client) lacks(command nbdclient.Command) bool {
	return command == nbdclient.Trim && c.flags&nbdclient.CanTrim == 0 || command == nbdclient.Zero && c.flags&nbdclient.CanZero == 0
}

// oldest is the number of the oldest request that is not answered.
func (c *client) oldest() int {
	oldest := c.sent
	for i := range c.slots {
		if c.slots[i].used {
			oldest = min(oldest, c.slots[i].number)
		}
	}
	return oldest
}

const (
	requestMagic = 0x25609513
	replyMagic   = 0x67446698
	replyBytes   = 16
)

// put encodes a request.
func (c *client) put(r request) {
	cookie := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.slots[cookie] = slot{request: r, used: true, number: c.sent, began: time.Now()}
	c.sent++
	flags := uint16(0)
	if r.fua {
		flags = uint16(nbdclient.FUA)
	}
	c.out = binary.BigEndian.AppendUint32(c.out, requestMagic)
	c.out = binary.BigEndian.AppendUint16(c.out, flags)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(r.command))
	c.out = binary.BigEndian.AppendUint64(c.out, uint64(cookie))
	c.out = binary.BigEndian.AppendUint64(c.out, uint64(r.offset))
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(r.length))
	switch {
	case r.command != nbdclient.Write:
	case r.length > sendInPlace:
		c.tail = c.data[:r.length]
	default:
		c.out = append(c.out, c.data[:r.length]...)
	}
}

// pending reports whether something waits to be sent.
func (c *client) pending() bool { return len(c.out)+len(c.tail) > 0 }

// exchange sends what is gathered, as far as the socket takes it, and takes replies, unless there is
// more to send first. It waits only if there is nothing else to do.
func (c *client) exchange(more bool) error {
	if c.pending() {
		n, err := unix.SendmsgBuffers(c.fd, [][]byte{c.out, c.tail}, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return fmt.Errorf("send: %w", err)
		}
		ofOut := min(max(n, 0), len(c.out))
		c.tail = c.tail[max(n, 0)-ofOut:]
		c.out = c.out[:copy(c.out, c.out[ofOut:])]
	}
	if more && !c.pending() {
		return nil
	}
	if c.pending() { // the socket is full: the server may wait for us to take replies
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN | unix.POLLOUT}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil
		}
	}
	n, err := unix.Read(c.fd, c.in[c.inLen:])
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("receive: %w", err)
	case n == 0:
		return errors.New("receive: the server closed the connection")
	}
	c.inLen += n
	return c.take()
}

// take handles all replies that have come whole.
func (c *client) take() error {
	p := c.in[:c.inLen]
	now := time.Now()
	for {
		drop := min(c.skip, len(p))
		c.skip -= drop
		p = p[drop:]
		if c.skip > 0 || len(p) < replyBytes {
			break
		}
		magic, code, cookie := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint64(p[8:])
		if magic != replyMagic || cookie >= uint64(len(c.slots)) || !c.slots[cookie].used {
			return fmt.Errorf("the server replied %x", p[:replyBytes])
		}
		s := &c.slots[cookie]
		if code != 0 {
			return fmt.Errorf("command %d at %d, %d bytes: error %d", s.command, s.offset, s.length, code)
		}
		p = p[replyBytes:]
		if s.command == nbdclient.Read {
			c.skip = s.length
		}
		c.tally.add(&s.request, s.began, now)
		s.used = false
		c.free = append(c.free, int(cookie))
	}
	c.inLen = copy(c.in, p)
	return nil
}

// close leaves in order.
func (c *client) close() error {
	c.out = nil
	c.free = []int{0}
	c.put(request{command: 2}) // NBD_CMD_DISC: it has no reply
	_, err := unix.Write(c.fd, c.out)
	return errors.Join(err, unix.Close(c.fd))
}
