package nbdclient

import (
	"encoding/binary"
	"fmt"
	"io"

	"jnbd/nbd"
)

// receive is the client's goroutine: it reads replies until the connection ends, and then
// finishes the calls that got none.
func (c *Client) receive() {
	defer close(c.ended)
	var err error
	for err == nil {
		err = c.receiveOne()
	}
	_ = c.stop(fmt.Errorf("receive a reply: %w", noEOF(err))) // what the server sends now has no meaning
	c.mu.Lock()
	calls := c.calls
	c.calls = nil
	err = c.err
	c.mu.Unlock()
	for _, call := range calls {
		call.finish(err)
	}
}

// receiveOne reads one simple reply or one chunk.
func (c *Client) receiveOne() error {
	var magic [4]byte
	if _, err := io.ReadFull(c.in, magic[:]); err != nil {
		return err
	}
	switch got := binary.BigEndian.Uint32(magic[:]); {
	case got == magicSimpleReply:
		return c.receiveSimple()
	case got == magicChunk && c.info.Structured:
		return c.receiveChunk()
	default:
		return breach("reply magic is %#x", got)
	}
}

// receiveSimple reads a simple reply behind its magic.
//
//	12 bytes: 0 error (4) | 4 cookie (8), then a READ's data
func (c *Client) receiveSimple() error {
	var head [simpleReplyRest]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	number := nbd.Errno(binary.BigEndian.Uint32(head[:]))
	cookie := binary.BigEndian.Uint64(head[4:])
	call, err := c.find(cookie)
	switch {
	case err != nil:
		return err
	case call.chunks:
		return breach("a simple reply to request %d after chunks of it", cookie)
	case c.info.Structured && call.Request.Command == Read && number == 0:
		return breach("a simple reply to a read, with structured replies agreed")
	}
	if number != 0 {
		c.finish(cookie, call, call.refused(number, ""))
		return nil
	}
	if call.Request.Command == Read {
		if _, err := io.ReadFull(c.in, call.Request.Data); err != nil {
			return err
		}
	}
	c.finish(cookie, call, nil)
	return nil
}

// receiveChunk reads a chunk behind its magic.
//
//	16 bytes: 0 flags (2) | 2 kind (2) | 4 cookie (8) | 12 length (4), then the payload
func (c *Client) receiveChunk() error {
	var head [chunkHeaderRest]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	flags, kind := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint16(head[2:])
	cookie, length := binary.BigEndian.Uint64(head[4:]), binary.BigEndian.Uint32(head[12:])
	call, err := c.find(cookie)
	if err != nil {
		return err
	}
	call.chunks = true
	switch {
	case kind == chunkNone:
		if length != 0 || flags&chunkDone == 0 {
			return breach("an empty chunk with %d bytes and flags %#x", length, flags)
		}
	case kind == chunkOffsetData:
		err = c.chunkData(call, length)
	case kind == chunkOffsetHole:
		err = c.chunkHole(call, length)
	case kind == chunkBlockStatus:
		err = c.chunkStatus(call, length)
	case kind >= chunkErrors:
		err = c.chunkError(call, kind, length)
	default:
		err = breach("chunk of the unknown kind %d", kind)
	}
	if err != nil || flags&chunkDone == 0 {
		return err
	}
	return c.done(cookie, call)
}

// done finishes a call after its last chunk.
func (c *Client) done(cookie uint64, call *Call) error {
	r := &call.Request
	if call.failed == nil && r.Command == Read && call.filled != int64(len(r.Data)) {
		return breach("the reply to a read of %d bytes has %d", len(r.Data), call.filled)
	}
	c.finish(cookie, call, call.failed)
	return nil
}

// chunkData is OFFSET_DATA: 0 offset (8), then the data.
func (c *Client) chunkData(call *Call, length uint32) error {
	if length < 8 {
		return breach("a data chunk of %d bytes", length)
	}
	var head [8]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	p, err := call.part(binary.BigEndian.Uint64(head[:]), length-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(c.in, p)
	return err
}

// chunkHole is OFFSET_HOLE: 0 offset (8) | 8 length (4).
func (c *Client) chunkHole(call *Call, length uint32) error {
	if length != 12 {
		return breach("a hole chunk of %d bytes", length)
	}
	var body [12]byte
	if _, err := io.ReadFull(c.in, body[:]); err != nil {
		return err
	}
	p, err := call.part(binary.BigEndian.Uint64(body[:]), binary.BigEndian.Uint32(body[8:]))
	clear(p)
	return err
}

// part is the piece of a Read's data that a chunk speaks of. Pieces don't overlap, so that
// their lengths add up to the whole exactly when all of it has come.
func (call *Call) part(offset uint64, length uint32) ([]byte, error) {
	r := &call.Request
	switch {
	case r.Command != Read:
		return nil, breach("data in the reply to a %v", r.Command)
	case length == 0, offset < r.Offset, offset-r.Offset > uint64(len(r.Data)),
		uint64(length) > uint64(len(r.Data))-(offset-r.Offset):
		return nil, breach("a chunk of %d bytes at %d in the reply to a read of %d bytes at %d",
			length, offset, len(r.Data), r.Offset)
	}
	call.filled += int64(length)
	from := offset - r.Offset
	return r.Data[from : from+uint64(length)], nil
}

// chunkStatus is BLOCK_STATUS: 0 context (4), then extents: length (4), flags (4).
func (c *Client) chunkStatus(call *Call, length uint32) error {
	if call.Request.Command != BlockStatus {
		return breach("block status in the reply to a %v", call.Request.Command)
	}
	if length < 12 || length%8 != 4 || length > maxStatus {
		return breach("a block status chunk of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}
	name, ok := c.info.Contexts[binary.BigEndian.Uint32(body)]
	if !ok {
		return breach("block status for a context that was not selected")
	}
	if call.Extents == nil {
		call.Extents = make(map[string][]Extent)
	}
	for body = body[4:]; len(body) > 0; body = body[8:] {
		call.Extents[name] = append(call.Extents[name],
			Extent{Length: binary.BigEndian.Uint32(body), Flags: binary.BigEndian.Uint32(body[4:])})
	}
	return nil
}

// chunkError is ERROR and ERROR_OFFSET: 0 error (4) | 4 length of text (2) | 6 text, and
// with OFFSET 8 bytes more.
func (c *Client) chunkError(call *Call, kind uint16, length uint32) error {
	if length < 6 || length > maxErrorText+14 {
		return breach("an error chunk of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}
	number, text := binary.BigEndian.Uint32(body), body[6:]
	n := int(binary.BigEndian.Uint16(body[4:]))
	if n > len(text) || number == 0 {
		return breach("an error chunk with error %d and %d bytes of text in %d", number, n, length)
	}
	if kind == chunkErrorOffset && len(text)-n != 8 {
		return breach("an error chunk without its offset")
	}
	if call.failed == nil {
		call.failed = call.refused(nbd.Errno(number), string(text[:n]))
	}
	return nil
}

// refused is the error of a request that the server has failed.
func (call *Call) refused(number nbd.Errno, text string) error {
	r := &call.Request
	return &RequestError{Command: r.Command, Offset: r.Offset, Length: r.length(), Errno: number, Text: text}
}

// find is the call of a cookie.
func (c *Client) find(cookie uint64) (*Call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.calls[cookie]
	if call == nil {
		return nil, breach("a reply to request %d, which is not under way", cookie)
	}
	return call, nil
}

// finish ends a call.
func (c *Client) finish(cookie uint64, call *Call, err error) {
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	call.finish(err)
}
