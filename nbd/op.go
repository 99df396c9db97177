package nbd

import (
	"net"
	"sync"
	"time"
)

const (
	maxCacheBytes = 8 << 20   // how much one CACHE reads ahead
	cacheBytes    = 256 << 10 // how much of it at a time
)

// op is a request that left its connection's reader: it is performed by a worker and may
// carry a buffer. Its way:
//
//  1. The reader makes it with handOff, which waits until the connection's share and the
//     pool have room; so a worker never waits for memory.
//  2. A worker performs it.
//  3. It lands: at once when its reply is a few bytes, which are posted; when the outbox
//     has sent its buffer otherwise. Landing gives everything back.
type op struct {
	c        *conn
	req      request
	buf      *buffer
	bufBytes int       // what buf was asked for
	received time.Time // when the last of the request's bytes were read
	admit    func() bool
	direct   bool // the medium took the payload out of buf

	parts   [][]byte // READ, BLOCK_STATUS: the reply, in pieces of heads and buf
	heads   []byte   // headers between the data
	pieces  []piece  // READ: data and holes
	data    [1][]byte
	offsets [1]int64
}

// ops are kept for reuse, because the garbage collector would otherwise see one for each
// request.
type opCache struct{ pool sync.Pool }

// get returns an op that is as good as new.
func (p *opCache) get() *op {
	if o, ok := p.pool.Get().(*op); ok {
		return o
	}
	o := new(op)
	o.admit = func() bool { return o.c.admit(o.received, o.c.tailInSocket) }
	return o
}

// put keeps o.
func (p *opCache) put(o *op) {
	clear(o.parts)
	o.c, o.buf, o.data[0], o.direct = nil, nil, nil, false
	o.parts, o.heads, o.pieces = o.parts[:0], o.heads[:0], o.pieces[:0]
	p.pool.Put(o)
}

// handOff makes an op for req with a buffer of n bytes. It waits for room, and fails when
// the connection is over: nothing is begun for a client that can't be answered. The reader
// calls it; what it has collected leaves first if there is a wait.
func (c *conn) handOff(req *request, n int) (*op, error) {
	buf, ok := c.flight.tryHandOff(&c.server.buffers, n, false)
	if !ok {
		if err := c.sendCollected(); err != nil {
			return nil, err
		}
		buf, _ = c.flight.tryHandOff(&c.server.buffers, n, true)
	}
	err := c.answerable()
	if err == nil && buf == nil {
		buf, err = c.awaitBuffer(n)
	}
	if err != nil {
		if buf != nil {
			buf.free()
		}
		c.flight.handBack(&c.server.buffers, n)
		return nil, err
	}
	o := c.server.ops.get()
	o.c, o.req, o.buf, o.bufBytes, o.received = c, *req, buf, n, c.received
	return o, nil
}

// answerable returns why the client can't be answered any more, or nil.
func (c *conn) answerable() error {
	select {
	case <-c.ended:
		return net.ErrClosed
	default:
		if c.disconnecting.Load() {
			return nil // it has left, and what it asked for before is to be done
		}
		return c.outbox.failure()
	}
}

// awaitBuffer gets a buffer from the pools, in its turn.
func (c *conn) awaitBuffer(n int) (*buffer, error) {
	buf, ok := c.server.buffers.poolFor(n).get(n, c.ended)
	if !ok {
		return nil, net.ErrClosed
	}
	return buf, nil
}

// perform does what the request asks for and lets the op land.
func (o *op) perform() {
	switch o.req.cmd {
	case cmdRead:
		o.read()
	case cmdWrite:
		o.write()
	case cmdCache:
		o.cache()
	case cmdBlockStatus:
		o.blockStatus()
	}
}

// land gives everything back. Nobody may use o afterwards.
func (o *op) land() {
	c, n := o.c, o.bufBytes
	if o.direct {
		o.buf.rest()
	} else {
		o.buf.free()
	}
	c.server.ops.put(o)
	c.flight.handBack(&c.server.buffers, n)
}

// finish replies with err or success and lands.
func (o *op) finish(err error) {
	c := o.c
	c.answered(&o.req, o.received)
	c.postResult(o.req.asked, err)
	o.land()
	c.outbox.kick()
}

// write applies a WRITE whose payload is in the buffer.
func (o *op) write() {
	c := o.c
	o.data[0], o.offsets[0] = o.buf.mem[:o.req.length], int64(o.req.offset)
	err := c.export.Device.WriteBatch(o.data[:], o.offsets[:], o.req.flags&cfFUA != 0, o.admit)
	if err == nil {
		c.count.writes.Add(1)
		c.count.bytesWritten.Add(o.req.length)
		d, ok := c.export.Device.(DirectWriter)
		o.direct = ok && d.WritesDirect()
	}
	if err == nil && o.req.flags&cfFUA != 0 {
		c.flight.alsoAwaitFlush()
		req, received := o.req, o.received
		o.land()
		c.export.flushes.add(c, &req, received)
		return
	}
	o.finish(err)
}

// cache reads ahead, which is all that CACHE asks for. It is advice: how much is done of
// it is bounded, and an error of the medium is not the advice's failure.
func (o *op) cache() {
	c, end := o.c, int64(o.req.offset)+int64(min(o.req.length, maxCacheBytes))
	for offset := int64(o.req.offset); offset < end && !c.gone.Load(); {
		n := min(end-offset, int64(len(o.buf.mem)))
		if _, err := c.export.Device.ReadAt(o.buf.mem[:n], offset); err != nil {
			break
		}
		offset += n
	}
	o.finish(nil)
}
