package nbd

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"
)

// A READ is answered only when all its data is in memory: a reply that says success can't
// be taken back.
//
//  1. Small, and the Device has it in memory: the reader puts it straight behind its header
//     into the replies it collects.
//  2. Otherwise a worker reads it into a buffer from the pool, which the outbox sends
//     from where it lies.
//
// With structured replies, and unless the client asked for one piece (DF), zeros are not
// sent: in case 1 when all of it is zero, in case 2 where the Device says so.

const (
	// inPlaceBytes is the largest payload that the reader handles itself, if the share allows it.
	inPlaceBytes = 64 << 10
	// minHole is the smallest piece that is sent as a hole.
	minHole = 4096
	// maxPieces bounds the pieces of one reply.
	maxPieces = 64
)

// piece is a part of a READ: data, or zeros that are not sent.
type piece struct {
	offset, n int64
	zero      bool
}

// readPastBatch answers a READ before the writes that are collected, if they change nothing of what
// it reads, which nobody can tell from the order in which they came.
func (c *conn) readPastBatch(req *request) bool {
	return req.cmd == cmdRead && req.length > 0 && c.batch.n > 0 &&
		c.refusalFor(req).errno == 0 && !c.batch.overlaps(req) && c.readInPlace(req)
}

// readInPlace answers a READ of at most inPlaceBytes if the Device has the data in memory.
func (c *conn) readInPlace(req *request) bool {
	n := int(req.length) // at most MaxBlock
	if c.export.cached == nil || n > c.server.share.inPlace() {
		return false
	}
	start, head := len(c.replies), simpleReplySize
	if c.style.chunked() {
		head = c.style.chunkSize() + dataHead
	}
	c.replies = slices.Grow(c.replies, head+n)
	data := c.replies[start+head : start+head+n]
	if !c.export.cached.ReadCachedAt(data, int64(req.offset)) {
		return false
	}
	switch {
	case !c.style.chunked():
		c.replies = appendSimple(c.replies, req.cookie, 0)[:start+head+n]
	case req.flags&cfDF == 0 && allZero(data):
		c.replies = c.style.appendHole(c.replies, chunkDone, req.asked, int64(req.offset), n)
	default:
		c.replies = c.style.appendData(c.replies, chunkDone, req.asked, int64(req.offset), n)[:start+head+n]
	}
	c.countRead(n)
	c.reads++
	if c.server.TraceEvery > 0 {
		c.perhapsTell(req, time.Since(c.received))
	}
	return true
}

// countRead counts a READ of n bytes that succeeded.
func (c *conn) countRead(n int) {
	c.count.reads.Add(1)
	c.count.bytesRead.Add(uint64(n))
}

// zeros is what allZero compares with.
var zeros [4096]byte

// allZero reports whether p holds nothing but zeros.
func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// read answers a READ from a worker.
func (o *op) read() {
	c, req := o.c, &o.req
	o.pieces = append(o.pieces[:0], piece{int64(req.offset), int64(req.length), false})
	if c.style.chunked() && req.flags&cfDF == 0 {
		if err := o.findHoles(); err != nil {
			o.finish(err)
			return
		}
	}
	for _, p := range o.pieces {
		if !p.zero {
			if err := c.export.readFull(o.at(p), p.offset); err != nil {
				o.finish(err)
				return
			}
		}
	}
	o.assemble()
	c.countRead(int(req.length))
	c.answered(&o.req, o.received)
	c.outbox.postOp(o) // o is not ours any more
	c.outbox.kick()
}

// at is the part of the buffer for p.
func (o *op) at(p piece) []byte {
	from := p.offset - int64(o.req.offset)
	return o.buf.mem[from : from+p.n]
}

// assemble makes o.parts of the pieces, with their headers.
func (o *op) assemble() {
	s := o.c.style
	if !s.chunked() {
		o.heads = appendSimple(o.heads[:0], o.req.cookie, 0)
		o.parts = append(o.parts[:0], o.heads, o.buf.mem[:o.req.length])
		return
	}
	// The headers must not move while parts point at them.
	o.heads = slices.Grow(o.heads[:0], len(o.pieces)*maxChunkOfAHole)
	o.parts = o.parts[:0]
	for i, p := range o.pieces {
		flags, from := uint16(0), len(o.heads)
		if i == len(o.pieces)-1 {
			flags = chunkDone
		}
		if p.zero {
			o.heads = s.appendHole(o.heads, flags, o.req.asked, p.offset, int(p.n))
			o.parts = append(o.parts, o.heads[from:])
			continue
		}
		o.heads = s.appendData(o.heads, flags, o.req.asked, p.offset, int(p.n))
		o.parts = append(o.parts, o.heads[from:], o.at(p))
	}
}

// findHoles divides the request into data and zeros. What the Device does not tell of
// counts as data. A piece that another request changes meanwhile may be told of either
// way: both are an order in which the two could have happened.
func (o *op) findHoles() error {
	start, end := int64(o.req.offset), int64(o.req.offset)+int64(o.req.length)
	next := start
	o.pieces = o.pieces[:0]
	err := o.c.export.Device.Extents(start, end-start, func(offset, n int64, _, zero bool) bool {
		if offset != next || n <= 0 {
			return false
		}
		n = min(n, end-next)
		o.addPiece(next, n, zero && n >= minHole)
		next += n
		return next < end
	})
	if err != nil {
		return err
	}
	if next < end {
		o.addPiece(next, end-next, false)
	}
	return nil
}

// addPiece adds what follows the last piece, and joins the two if they are alike. When
// there are too many pieces, the rest becomes data.
func (o *op) addPiece(offset, n int64, zero bool) {
	if len(o.pieces) >= maxPieces {
		zero = false
	}
	if len(o.pieces) > 0 {
		last := &o.pieces[len(o.pieces)-1]
		if len(o.pieces) >= maxPieces {
			last.zero = false // its part of the buffer is read like the rest
		}
		if last.zero == zero {
			last.n += n
			return
		}
	}
	o.pieces = append(o.pieces, piece{offset, n, zero})
}

// readFull is Device.ReadAt that fails rather than come back with less.
func (x *export) readFull(p []byte, offset int64) error {
	n, err := x.Device.ReadAt(p, offset)
	if n == len(p) {
		return nil // io.ReaderAt may say EOF with the last byte
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: got %d bytes, want %d: %w", offset, n, len(p), err)
}
