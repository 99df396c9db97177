package nbdclient

import (
	"fmt"
	"net"
)

// Request is one request, sent as it stands: no range or flag is checked here.
type Request struct {
	Command Command
	Flags   CommandFlags
	Offset  uint64 // bytes
	// Length counts for commands without Data.
	Length uint32 // bytes
	// Data is what Write sends and where Read puts what it gets. It must be left alone
	// until the call is done.
	Data []byte
}

// hasData reports whether Data counts, and not Length.
func (r *Request) hasData() bool { return r.Command == Read || r.Command == Write }

// length is the length that the request's header has.
func (r *Request) length() uint32 {
	if r.hasData() {
		return uint32(len(r.Data))
	}
	return r.Length
}

// Call is a request under way.
type Call struct {
	Request Request
	// Err, Extents (of BlockStatus) and Request.Data (of Read) count once the call came
	// out of Done. After an error, the data of a Read is whatever arrived.
	Err     error
	Extents map[string][]Extent
	Done    chan *Call

	closing <-chan struct{} // the client's
	filled  int64           // bytes of a Read that have come, as data or holes
	chunks  bool            // a chunk of the reply has come
	failed  error           // what an error chunk said
}

// Start sends a request and returns without waiting for its reply. The call comes out of
// done when it is finished; nil stands for a channel of its own. A channel that many calls
// share should have room for all of them: one that is full holds up the replies behind.
func (c *Client) Start(request Request, done chan *Call) *Call {
	if done == nil {
		done = make(chan *Call, 1)
	}
	call := &Call{Request: request, Done: done, closing: c.closing}
	c.mu.Lock()
	if err := c.err; err != nil {
		c.mu.Unlock()
		call.finish(err)
		return call
	}
	c.lastCookie++
	cookie := c.lastCookie
	c.calls[cookie] = call
	c.mu.Unlock()
	if err := c.send(&call.Request, cookie); err != nil {
		_ = c.stop(fmt.Errorf("send a request: %w", err))
	}
	return call
}

// finish hands the call to whoever waits for it. Once the client is closed it does not
// wait for room.
func (call *Call) finish(err error) {
	call.Err = err
	select {
	case call.Done <- call:
		return
	default:
	}
	select {
	case call.Done <- call:
	case <-call.closing:
	}
}

// inlinePayload is how large a payload may be to be copied behind its header, which costs
// less than a gathered write.
const inlinePayload = 16 << 10

// send writes one request.
func (c *Client) send(r *Request, cookie uint64) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.out = appendRequest(c.out[:0], r, cookie)
	if r.Command != Write {
		_, err := c.conn.Write(c.out)
		return err
	}
	if len(r.Data) <= inlinePayload {
		c.out = append(c.out, r.Data...)
		_, err := c.conn.Write(c.out)
		return err
	}
	pieces := net.Buffers{c.out, r.Data}
	_, err := pieces.WriteTo(c.conn)
	return err
}
