package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// Client sends requests to one export on one connection. Its methods may be called at the
// same time; requests then are under way together, and each call returns when its own
// reply is there.
type Client struct {
	info Info
	conn net.Conn

	sending sync.Mutex // one request is written at a time
	out     []byte     // a header, and the payload if it is small; guarded by sending

	in    *bufio.Reader // the receiver's
	ended chan struct{} // closed when the receiver has ended

	mu         sync.Mutex
	calls      map[uint64]*Call // under way, by cookie; only the receiver takes them out
	lastCookie uint64
	err        error         // why no further call is taken
	closing    chan struct{} // closed when err is set
}

// Connect dials the server of uri, chooses its export, and returns a client of it.
func Connect(ctx context.Context, uri URI, options Options) (*Client, error) {
	h, err := Dial(ctx, uri, options)
	if err != nil {
		return nil, err
	}
	conn, info, err := h.Go(ctx, uri.Export)
	if err != nil {
		_ = h.Close()
		return nil, err
	}
	return NewClient(conn, info), nil
}

// receiveBuffer holds many small replies.
const receiveBuffer = 64 << 10

// NewClient takes over a connection and what Go said of its export.
func NewClient(conn net.Conn, info Info) *Client {
	c := &Client{
		info: info, conn: conn,
		in:      bufio.NewReaderSize(conn, receiveBuffer),
		ended:   make(chan struct{}),
		calls:   make(map[uint64]*Call),
		closing: make(chan struct{}),
	}
	go c.receive() // ends with the connection; Close and Disconnect wait for it
	return c
}

// Info is what the server said of the export.
func (c *Client) Info() Info { return c.info }

// Size is the export's length in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// Close closes the connection at once. Calls under way return ErrClosed.
func (c *Client) Close() error {
	err := c.stop(ErrClosed)
	<-c.ended
	return err
}

// disconnectPatience bounds the wait for a server to close the connection.
const disconnectPatience = 10 * time.Second

// Disconnect leaves in order: the server finishes what it was asked and closes. It waits
// for that a while. Calls that got no reply return ErrClosed.
func (c *Client) Disconnect() error {
	c.refuse(ErrClosed)
	err := c.send(&Request{Command: disconnect}, 0)
	if err == nil {
		_ = c.conn.SetReadDeadline(time.Now().Add(disconnectPatience)) // it fails when all is over
		<-c.ended
	}
	if closeErr := c.stop(ErrClosed); err == nil && !errors.Is(closeErr, net.ErrClosed) {
		err = closeErr
	}
	<-c.ended
	return err
}

// ReadAt fills p from the export at off, as io.ReaderAt does.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > c.info.Size {
		return 0, fmt.Errorf("read at %d of an export of %d bytes", off, c.info.Size)
	}
	var end error
	if n := c.info.Size - off; n < int64(len(p)) {
		p, end = p[:n], io.EOF
	}
	return c.inPieces(p, off, Request{Command: Read}, end)
}

// WriteAt writes p to the export at off. It is not durable before Flush.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	return c.inPieces(p, off, Request{Command: Write}, nil)
}

// inPieces performs request for p in pieces that the server accepts, and returns end after
// the last one.
func (c *Client) inPieces(p []byte, off int64, request Request, end error) (int, error) {
	largest := int(c.info.MaxBlock)
	if largest == 0 || c.info.MaxBlock > defaultLargest {
		largest = defaultLargest
	}
	done := 0
	for done < len(p) {
		request.Offset = uint64(off) + uint64(done)
		request.Data = p[done:min(done+largest, len(p))]
		if _, err := c.Do(request); err != nil {
			return done, err
		}
		done += len(request.Data)
	}
	return done, end
}

// defaultLargest is the payload that every server must accept ("Block size constraints").
const defaultLargest = 32 << 20

// Flush makes everything durable that was replied to before, on any connection if the
// export has CanMultiConn.
func (c *Client) Flush() error {
	_, err := c.Do(Request{Command: Flush})
	return err
}

// Trim says that nobody needs [off, off+n) any more.
func (c *Client) Trim(off, n int64, flags CommandFlags) error {
	return c.ranged(Request{Command: Trim, Flags: flags}, off, n)
}

// Zero makes [off, off+n) read as zeros.
func (c *Client) Zero(off, n int64, flags CommandFlags) error {
	return c.ranged(Request{Command: Zero, Flags: flags}, off, n)
}

// ranged performs request for [off, off+n), in pieces whose length fits a request and that
// begin on a whole block.
func (c *Client) ranged(request Request, off, n int64) error {
	const largest = math.MaxUint32 &^ (64<<10 - 1)
	for done := int64(0); done < n; done += int64(request.Length) {
		request.Offset = uint64(off + done)
		request.Length = uint32(min(n-done, largest))
		if _, err := c.Do(request); err != nil {
			return err
		}
	}
	return nil
}

// Extent is a piece of the export with one state. What the bits of Flags mean depends on
// the context; in base:allocation 1 is a hole and 2 reads as zeros.
type Extent struct{ Length, Flags uint32 }

// Status returns the extents from off on, by the name of the context. A server need not
// describe all n bytes, but at least the first one of each selected context.
func (c *Client) Status(off int64, n uint32, flags CommandFlags) (map[string][]Extent, error) {
	call, err := c.Do(Request{Command: BlockStatus, Flags: flags, Offset: uint64(off), Length: n})
	return call.Extents, err
}

// Do performs a request and waits for its reply. The Call is never nil; its Err is the
// error.
func (c *Client) Do(request Request) (*Call, error) {
	call := <-c.Start(request, nil).Done
	return call, call.Err
}

// refuse makes all calls that follow, and those that get no reply any more, return err,
// unless another reason came first.
func (c *Client) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.closing)
	}
}

// stop is refuse that also closes the connection. The receiver ends by it, and finishes
// the calls: until then it may be filling their buffers.
func (c *Client) stop(err error) error {
	c.refuse(err)
	return c.conn.Close()
}

// appendRequest appends a request's header.
//
//	28 bytes: 0 magic (4) | 4 flags (2) | 6 command (2) | 8 cookie (8) | 16 offset (8) | 24 length (4)
func appendRequest(b []byte, r *Request, cookie uint64) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Flags))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Command))
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, r.Offset)
	return binary.BigEndian.AppendUint32(b, r.length())
}
