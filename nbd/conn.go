package nbd

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// How a connection ends:
//
//  1. Its reader meets the end: DISC, the client's leaving, an error, or the server stops.
//  2. After DISC or a stop in order, what is in flight is finished and its replies are
//     sent; after DISC the export is synced if the connection has changed it.
//  3. It is marked as gone, so that no change is applied any more, and its socket closed.
//  4. When no worker, flush or sender knows it any more, its memory goes back, the event is
//     told, and the server forgets it.
//
// Close and closeStalled do step 3 from outside; the reader then finds a closed socket.

// conn is one client.
type conn struct {
	server *Server
	id     uint64
	remote string
	opened time.Time
	nc     net.Conn
	raw    syscall.RawConn // nc's socket, or nil when there is none to look at
	stream io.ReadWriter   // what the bytes pass through: nc, or secure
	secure *tls.Conn       // once TLS is in use
	names  []string        // of the client's certificate, if it was verified
	ended  chan struct{}   // closed with the socket
	count  counters

	// Settled by the negotiation, which only the reader takes part in.
	agreed   agreement
	export   *export // nil until one is chosen
	size     int64   // of the export, in bytes
	style    style
	contexts contextSet

	evicted bool // closed to make room for another; guarded by Server.mu

	// attached is export, for those who are not the reader.
	attached atomic.Pointer[export]

	gone          atomic.Bool // nothing may be applied any more
	disconnecting atomic.Bool // the client sent DISC
	stopping      atomic.Bool // the server finishes what is in flight, and no more
	// changesSeen is export.changes as this connection last left or found it.
	changesSeen atomic.Uint64

	outbox    outbox
	flight    flight
	receiving pace // of a large payload that is coming in

	closing sync.Mutex
	reason  string // why the socket was closed; set once
	cause   error

	failures atomic.Uint64 // bits of the error numbers that were told as RequestFailed

	reader // owned by the connection's goroutine
}

// Reasons for the end, in Event.Reason.
const (
	reasonDisconnected = "client disconnected"
	reasonLeft         = "client closed the connection"
	reasonAborted      = "client ended the negotiation"
	reasonTimeout      = "negotiation timed out"
	reasonProtocol     = "protocol error"
	reasonTLS          = "TLS handshake failed"
	reasonFailed       = "connection failed"
	reasonSlow         = "negotiation was slow while others waited for a place"
	reasonRemoved      = "export was removed"
	reasonStopping     = "server is stopping"
	reasonNotReading   = "client does not read its replies while others wait for memory"
	reasonNotSending   = "client does not send its payload while others wait for memory"
)

var (
	errDisconnected = errors.New(reasonDisconnected)
	errAborted      = errors.New(reasonAborted)
	errStopped      = errors.New(reasonStopping)
	errNotReading   = errors.New(reasonNotReading)
	errNotSending   = errors.New(reasonNotSending)
	errLeft         = errors.New("closed without a disconnect request")
	errSlow         = errors.New(reasonSlow)
	errGone         = errors.New("the client was gone when its requests were to be applied")
)

// protocolError is a client's breach of the protocol after which the stream has no
// meaning any more.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// lingerTime bounds the wait for a client that is still sending when the server stops.
const lingerTime = 200 * time.Millisecond

// newConn makes the connection for nc.
func newConn(s *Server, id uint64, nc net.Conn) *conn {
	c := &conn{
		server: s, id: id, remote: nc.RemoteAddr().String(), opened: time.Now(),
		nc: nc, stream: nc, ended: make(chan struct{}),
	}
	if socket, ok := nc.(syscall.Conn); ok {
		c.raw, _ = socket.SyscallConn() // nil if it is closed already
	}
	c.outbox.init(nc, c.raw, &s.share)
	c.flight.landed.L = &c.flight.mu
	c.flight.onIdle = c.wakeIfStopping
	return c
}

// serve is the connection's goroutine.
func (c *conn) serve() {
	err := c.negotiate()
	if err == nil {
		c.server.attach(c)
		c.server.event(Event{Kind: ConnAttached, Conn: c.id, Remote: c.remote, Export: c.export.Name, Client: c.clientName()})
		err = c.transmit()
	}
	c.end(err)
}

// end does what is left after the reader met err.
func (c *conn) end(err error) {
	if errors.Is(err, errDisconnected) || errors.Is(err, errStopped) {
		c.flight.drain()
		c.outbox.drain()
	}
	if errors.Is(err, errDisconnected) || errors.Is(err, errStopped) || errors.Is(err, errAborted) {
		c.sayGoodbye()
	}
	if errors.Is(err, errStopped) {
		c.linger()
	}
	c.close(c.explain(err))
	c.outbox.fail(net.ErrClosed)
	c.flight.drain()
	c.reader.release()

	event := Event{
		Kind: ConnClosed, Conn: c.id, Remote: c.remote,
		Requests: c.count.requests.Load(), Failed: c.count.failed.Load(),
		BytesRead: c.count.bytesRead.Load(), BytesWritten: c.count.bytesWritten.Load(),
	}
	if c.export != nil {
		event.Export = c.export.Name
	}
	c.closing.Lock()
	event.Reason, event.Err = c.reason, c.cause
	c.closing.Unlock()
	c.server.event(event)
	c.server.forget(c)
}

// explain is reason and cause of an end that the reader met.
func (c *conn) explain(err error) (reason string, cause error) {
	var breach protocolError
	var failedTLS *tlsError
	left := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case errors.Is(err, errDisconnected):
		return reasonDisconnected, nil
	case errors.Is(err, errAborted):
		return reasonAborted, nil
	case errors.Is(err, errStopped) && c.export.removed.Load() && !c.server.isClosing():
		return reasonRemoved, nil
	case errors.Is(err, errStopped), c.stopping.Load() && c.export == nil:
		return reasonStopping, nil
	case errors.As(err, &breach):
		return reasonProtocol, err
	case c.export == nil && errors.Is(err, os.ErrDeadlineExceeded):
		return reasonTimeout, err
	case c.export == nil && left:
		return reasonLeft, nil
	case left:
		return reasonLeft, errLeft
	case errors.As(err, &failedTLS):
		return reasonTLS, err
	}
	return reasonFailed, err
}

// close marks the connection as gone and closes its socket. Only the first call counts.
func (c *conn) close(reason string, cause error) {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.reason != "" {
		return
	}
	c.reason, c.cause = reason, cause
	c.gone.Store(true)
	close(c.ended)
	_ = c.nc.Close() // an error changes nothing: the connection is over
}

// noDeadline ends a deadline.
var noDeadline time.Time

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// stop makes the reader finish what is in flight and end.
func (c *conn) stop() {
	c.stopping.Store(true)
	c.wakeReader()
}

// setDeadline bounds reads and writes. A stop that came before is not forgotten by it.
func (c *conn) setDeadline(t time.Time) error {
	err := c.nc.SetDeadline(t)
	if c.stopping.Load() {
		c.wakeReader()
	}
	return err
}

// wakeReader ends the reader's wait for bytes, if it waits.
func (c *conn) wakeReader() { _ = c.nc.SetReadDeadline(longAgo) }

// wakeIfStopping tells a stopping connection's reader that nothing is in flight any more.
func (c *conn) wakeIfStopping() {
	if c.stopping.Load() {
		c.wakeReader()
	}
}

// linger waits a moment for a client that may still be sending. Were its bytes left unread
// when the socket is closed, TCP would tell it with a reset, which can destroy replies that
// it has not read yet.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || !c.late || half.CloseWrite() != nil {
		return
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.Copy(io.Discard, c.nc)
	}
}

// postResult posts the reply to a change or flush that has succeeded, or to any request
// that the Device has failed. A change that was dropped has nobody to reply to.
func (c *conn) postResult(a asked, err error) {
	var room [extendedChunkSize]byte
	if reply := c.appendResult(room[:0], a, err); len(reply) > 0 {
		c.outbox.post(reply)
	}
}

// appendResult appends the reply that postResult posts.
func (c *conn) appendResult(p []byte, a asked, err error) []byte {
	switch {
	case err == nil:
		return c.style.appendSuccess(p, a)
	case isDropped(err):
		c.count.dropped.Add(1)
		c.gone.Store(true)
		return p
	}
	c.count.failed.Add(1)
	errno := c.server.errno(err)
	if bit := uint64(1) << (errno % 64); c.failures.Or(bit)&bit == 0 {
		c.server.event(Event{Kind: RequestFailed, Conn: c.id, Remote: c.remote, Export: c.export.Name, Err: err})
	}
	return c.style.appendFailure(p, a, errno, err.Error())
}
