package nbd

import (
	"fmt"
	"time"
)

// maxBatch bounds the writes of one batch, so that the reader's lists have a fixed size.
const maxBatch = 256

// batch is a run of WRITEs whose payloads lie in the read buffer. They were checked, and
// wait for runBatch.
type batch struct {
	n       int  // how many
	bytes   int  // their payload
	flush   bool // a flush follows, or one of them has FUA
	admit   func() bool
	data    [maxBatch][]byte
	offsets [maxBatch]int64
	reqs    [maxBatch]request
}

// overlaps reports whether one of the writes changes bytes of r's range.
func (b *batch) overlaps(r *request) bool {
	from, to := int64(r.offset), int64(r.offset+r.length)
	for i := range b.n {
		if b.offsets[i] < to && from < b.offsets[i]+int64(len(b.data[i])) {
			return true
		}
	}
	return false
}

// acceptWrite takes the WRITE whose header is at the buffer's front. It reports whether it
// came whole; otherwise more must be received.
func (c *conn) acceptWrite(req *request) (whole bool, err error) {
	no := c.refusalFor(req)
	n := 0
	if no.errno == 0 {
		n = int(req.length) // at most MaxBlock, and the payload is as long
	}
	head := c.style.requestSize()
	inPlace := c.server.share.inPlace()
	if no.errno == 0 && n <= inPlace && c.to-c.from < head+n {
		return false, nil // nothing was done yet; it will be looked at again
	}
	c.count.requests.Add(1)
	c.from += head
	switch {
	case no.errno != 0:
		c.runBatchBefore(req.payload)
		if err := c.drainPayload(req.payload); err != nil {
			return false, err
		}
		c.refuse(req, no)
	case n == 0:
		c.succeedEmpty(req)
	case n > inPlace:
		c.runBatchBefore(req.payload)
		return true, c.handOffWrite(req)
	default:
		c.addWrite(req)
	}
	return true, nil
}

// addWrite adds a WRITE whose payload is at the buffer's front to the batch.
func (c *conn) addWrite(req *request) {
	b, n := &c.batch, int(req.length)
	b.data[b.n] = c.input[c.from : c.from+n : c.from+n]
	b.offsets[b.n] = int64(req.offset)
	b.reqs[b.n] = *req
	b.n++
	b.bytes += n
	b.flush = b.flush || req.flags&cfFUA != 0
	c.from += n
	if b.n == maxBatch {
		c.runBatch()
	}
}

// runBatch gives the batch to the Device and replies to each of its writes; to those with
// FUA once they are durable. The batch is empty afterwards.
func (c *conn) runBatch() {
	b := &c.batch
	if b.n == 0 {
		return
	}
	err := c.export.Device.WriteBatch(b.data[:b.n], b.offsets[:b.n], b.flush, b.admit)
	if err == nil {
		c.count.writes.Add(uint64(b.n))
		c.count.bytesWritten.Add(uint64(b.bytes))
	}
	took, answered := time.Since(c.received), 0
	for i := range b.n {
		req := &b.reqs[i]
		if err == nil && req.flags&cfFUA != 0 {
			c.flight.awaitFlush()
			c.export.flushes.add(c, req, c.received)
			continue
		}
		c.replies = c.appendResult(c.replies, req.asked, err)
		c.perhapsTell(req, took)
		answered++
	}
	c.count.latency[cmdWrite].Observe(took, answered)
	b.n, b.bytes, b.flush = 0, 0, false
}

// runBatchAnd is runBatch when what comes next is a flush, or is not.
func (c *conn) runBatchAnd(flush bool) {
	if c.batch.n > 0 {
		c.batch.flush = c.batch.flush || flush
		c.runBatch()
	}
}

// runBatchBefore is runBatch when the next bytes of the stream are a payload.
func (c *conn) runBatchBefore(payload uint64) {
	c.skip = int(min(payload, maxPeek+1))
	c.runBatch()
	c.skip = 0
}

// handOffWrite gives a WRITE with a large payload to a worker. The payload is received here,
// once, into the buffer from which the Device takes it.
func (c *conn) handOffWrite(req *request) error {
	n := int(req.length)
	if c.to-c.from < n { // the rest may take its time
		if err := c.sendCollected(); err != nil {
			return err
		}
	}
	o, err := c.handOff(req, n)
	if err != nil {
		return err
	}
	got := copy(o.buf.mem[:n], c.input[c.from:c.to])
	c.from += got
	if err := c.receivePayload(o, got); err != nil {
		o.land() // a payload that did not come whole never reaches the Device
		return err
	}
	c.settleDoubt()
	c.limit = afterLarge
	o.received = c.received
	c.export.workers.do(o)
	return nil
}

// receivePayload receives what is missing of o's payload after its first got bytes. The
// buffer is a loan that ends only when the client has sent all, so its pace is watched.
func (c *conn) receivePayload(o *op, got int) error {
	p := o.buf.mem[got:o.bufBytes]
	if len(p) == 0 {
		return nil
	}
	c.receiving.begin(c.server.buffers.indexFor(o.bufBytes), len(p))
	defer c.receiving.end()
	for len(p) > 0 {
		n, err := c.receive(p, 1)
		if err != nil {
			return err
		}
		c.receiving.moved(n)
		p = p[n:]
	}
	return nil
}

// drainPayload throws the payload of a refused request away, to stay in step. One that is too
// large for that ends the connection.
func (c *conn) drainPayload(bytes uint64) error {
	if bytes > maxDrainBytes {
		return protocolError(fmt.Sprintf("refused request with a payload of %d bytes, at most %d are read and thrown away", bytes, maxDrainBytes))
	}
	n := int(bytes)
	got := min(n, c.to-c.from)
	c.from += got
	if got == n {
		return nil
	}
	if err := c.sendCollected(); err != nil {
		return err
	}
	c.from, c.to = 0, 0
	for got < n {
		m, err := c.receive(c.input[:min(c.server.share.bytes(), n-got)], 0)
		if err != nil {
			return err
		}
		got += m
	}
	return nil
}
