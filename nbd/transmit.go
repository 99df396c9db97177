package nbd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The way of a request through its connection's reader:
//
//  1. receive: one read call brings as many requests as the socket holds.
//  2. Each whole request in the buffer is decoded and checked (request.go).
//  3. WRITEs that follow each other are collected and given to the Device as one batch,
//     their payloads where they lie in the buffer (batch.go). Any other request first lets
//     the batch go, so that requests are begun in the order in which they came. Only a READ
//     of other bytes that needs no wait passes it: a mix of both would make many batches.
//  4. READs are answered in place if that needs no wait (read.go); TRIM and WRITE_ZEROES
//     are, because they cost a map change; FLUSH joins the export's flushes, or is made in
//     place for a client that waits for it (flush.go).
//  5. What is larger or may wait goes to a worker (op.go). Its payload is read into a buffer
//     of its own, and the next request is received while the worker is busy.
//  6. When the buffer holds no whole request any more, all replies collected leave in one
//     write (outbox.go), and step 1 follows.
//
// NBD lets replies come in any order and a client must wait for a reply before it relies
// on it; so a small write may pass a larger one that came before it.

const (
	// inputBytes is the read buffer. A socket of default size never holds more.
	inputBytes = 256 << 10
	// sendAbove is how many bytes of replies are collected before they leave even though
	// more requests are at hand; fewer where the share is smaller.
	sendAbove = 64 << 10
	// afterLarge is how much is read after a large payload: its like tends to follow, and
	// what is read of that here must be copied.
	afterLarge = 4 << 10
)

// reader is the receiving half of a connection, owned by its goroutine.
type reader struct {
	input    []byte // mapped; requests lie in input[from:to]
	from, to int
	limit    int       // how much the next read may take
	received time.Time // when the last bytes came
	stale    bool      // they came long after those before them
	skip     int       // payload bytes from where input[from:] begins to the next request
	replies  []byte    // collected, not handed to the outbox
	reads    int       // READs among them, not counted in a histogram yet
	batch    batch
	crowd    crowd
	look     func(fd uintptr) // counts what waits in the socket, bound once so that it allocates nothing
	waiting  int              // what look has found
	late     bool             // a request was refused because the server is stopping
}

// release gives the reader's memory back.
func (r *reader) release() {
	if r.input != nil {
		unmapPages(r.input)
		r.input = nil
	}
}

// transmit serves requests until the connection ends, and says why it does. All
// that came whole before has been begun by then.
func (c *conn) transmit() error {
	c.input = mapPages(inputBytes)
	c.limit = c.server.share.bytes()
	c.received = time.Now()
	c.look = func(fd uintptr) { c.waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	c.batch.admit = func() bool { return c.admit(c.received, c.endsInSocket) }
	for {
		end := c.serveReceived()
		c.runBatch()
		if err := c.sendCollected(); err != nil && end == nil {
			end = err
		}
		if end == nil && c.count.dropped.Load() > 0 {
			end = errGone
		}
		if end == nil {
			end = c.receiveMore()
		}
		if end == nil {
			continue
		}
		if errors.Is(end, errDisconnected) {
			c.finishDisconnect()
		}
		return end
	}
}

// serveReceived begins every whole request in the buffer. It returns an error when there
// is nothing to come after them.
func (c *conn) serveReceived() error {
	// A payload may look like a DISC, so when the last bytes do, all before them is walked.
	if c.style.endsInDisconnect(c.input[c.from:c.to]) {
		c.disconnecting.Store(true) // now: what lies before it may have to wait long
	}
	c.settleDoubt()
	head := c.style.requestSize()
	for c.to-c.from >= head {
		if c.stopping.Load() && !c.style.chunked() {
			c.late = true
			return errStopped // unanswered, see refusalFor
		}
		req, ok := c.style.decode(c.input[c.from:c.to])
		if !ok {
			return protocolError(fmt.Sprintf("request magic is %#x", c.input[c.from:c.from+4]))
		}
		if req.cmd == cmdWrite || req.payload > 0 && req.cmd != cmdDisc {
			var whole bool
			var err error
			if req.cmd == cmdWrite {
				whole, err = c.acceptWrite(&req)
			} else {
				whole, err = c.acceptPayload(&req)
			}
			if err != nil || !whole {
				return err
			}
			continue
		}
		c.from += head
		c.count.requests.Add(1)
		if !c.readPastBatch(&req) {
			c.runBatchAnd(req.cmd == cmdFlush)
			if req.cmd == cmdDisc {
				return errDisconnected
			}
			if err := c.perform(&req); err != nil {
				return err
			}
		}
		if len(c.replies) > min(sendAbove, c.server.share.bytes()) {
			if err := c.sendCollected(); err != nil {
				return err
			}
		}
	}
	return nil
}

// perform begins a request without payload.
func (c *conn) perform(req *request) error {
	if no := c.refusalFor(req); no.errno != 0 {
		c.refuse(req, no)
		return nil
	}
	if req.cmd != cmdFlush && req.length == 0 {
		c.succeedEmpty(req)
		return nil
	}
	device, offset, n := c.export.Device, int64(req.offset), int64(req.length)
	switch req.cmd {
	case cmdFlush:
		return c.flush(req)
	case cmdTrim:
		c.changedInPlace(req, device.Trim(offset, n, c.batch.admit))
	case cmdWriteZeroes:
		err := device.Zero(offset, n, req.flags&cfNoHole == 0, c.batch.admit)
		if req.flags&cfFastZero != 0 && errors.Is(err, errors.ErrUnsupported) {
			c.refuse(req, refusal{ENOTSUP, "this range can't be zeroed fast"})
			return nil
		}
		c.changedInPlace(req, err)
	case cmdRead:
		if !c.readInPlace(req) {
			return c.perhapsWait(req, int(req.length))
		}
	case cmdBlockStatus:
		if req.contexts == 0 {
			req.contexts = c.contexts
		}
		return c.perhapsWait(req, statusReplyBytes(req.contexts))
	case cmdCache:
		return c.perhapsWait(req, int(min(req.length, cacheBytes)))
	}
	return nil
}

// perhapsWait gives a request that may wait for the medium to a worker, with a buffer of n
// bytes.
func (c *conn) perhapsWait(req *request, n int) error {
	o, err := c.handOff(req, n)
	if err != nil {
		return err
	}
	c.export.workers.do(o)
	return nil
}

// flush answers a FLUSH when everything done so far is durable. An export that can't be
// changed has nothing to flush.
func (c *conn) flush(req *request) error {
	if c.export.ReadOnly {
		c.count.flushes.Add(1)
		c.replies = c.style.appendSuccess(c.replies, req.asked)
		c.answered(req, c.received)
		return nil
	}
	if c.flushesAlone() {
		return c.flushInPlace(req)
	}
	c.flight.awaitFlush()
	c.export.flushes.add(c, req, c.received)
	return nil
}

// changedInPlace replies to a change that the reader made and that ended with err; with FUA
// once it is durable.
func (c *conn) changedInPlace(req *request, err error) {
	if err == nil {
		c.count.writes.Add(1)
		if req.flags&cfFUA != 0 {
			c.flight.awaitFlush()
			c.export.flushes.add(c, req, c.received)
			return
		}
	}
	c.replies = c.appendResult(c.replies, req.asked, err)
	c.answered(req, c.received)
}

// refusalFor is why req is not performed, if it is not.
//
// A request that comes while the server stops is refused, but only to clients that have
// agreed on chunks. One with simple replies may be the kernel, whose file systems take any
// error for a broken disk; it sends again what had no reply when the connection is closed.
// So what such a client sends later is left unanswered (serveReceived), and what was begun
// is performed.
func (c *conn) refusalFor(req *request) refusal {
	if c.stopping.Load() && c.style.chunked() {
		c.late = true
		return refusal{ESHUTDOWN, "the server is shutting down"}
	}
	return c.check(req)
}

// refuse replies that req is not performed.
func (c *conn) refuse(req *request, no refusal) {
	c.count.failed.Add(1)
	c.replies = c.style.appendFailure(c.replies, req.asked, no.errno, no.text)
}

// succeedEmpty replies to a request of no length.
func (c *conn) succeedEmpty(req *request) {
	if c.style.chunked() && req.cmd == cmdRead {
		c.replies = c.style.appendNone(c.replies, req.asked)
		return
	}
	c.replies = c.style.appendSuccess(c.replies, req.asked)
}

// sendCollected hands the collected replies to the outbox. Even when there are none it
// waits while the client has too much unread, whoever posted that. A client that says DISC and
// leaves does not wait for replies, but for what it has asked for.
func (c *conn) sendCollected() error {
	if c.reads > 0 {
		c.count.latency[cmdRead].Observe(time.Since(c.received), c.reads)
		c.reads = 0
	}
	err := c.outbox.send(c.replies)
	c.replies = c.replies[:0]
	if c.disconnecting.Load() {
		return nil
	}
	return err
}

// receiveMore brings the rest of the request that lies cut off at the buffer's end, or new
// ones.
func (c *conn) receiveMore() error {
	if c.from == c.to {
		c.from, c.to = 0, 0
	}
	share := c.server.share.bytes()
	if len(c.input)-c.from < extendedRequestSize+inPlaceBytes || c.to >= share {
		c.to = copy(c.input, c.input[c.from:c.to])
		c.from = 0
	}
	room := c.input[c.to:]
	n, err := c.receive(room[:min(len(room), c.limit)], 0)
	c.limit = share
	c.to += n
	return err
}

// receive reads into p, at least one byte. When the server stops, it returns errStopped as
// soon as no more than own requests are in flight.
func (c *conn) receive(p []byte, own int) (int, error) {
	for {
		n, err := c.stream.Read(p)
		if n > 0 {
			now := time.Now()
			if now.Sub(c.received) > staleAfter {
				c.stale = true
			}
			c.received = now
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.stopping.Load() {
			return 0, err
		}
		// Woken by stop, or because the last request in flight has landed. The deadline goes
		// before the question, so that a landing after the question wakes the next read.
		if err := c.nc.SetReadDeadline(noDeadline); err != nil {
			return 0, err
		}
		if c.flight.isIdle(own) {
			return 0, errStopped
		}
	}
}

// finishDisconnect finishes what is in flight after DISC, and makes it durable.
func (c *conn) finishDisconnect() {
	c.disconnecting.Store(true)
	c.flight.drain()
	if c.count.writes.Load() > 0 {
		if err := c.export.Device.Sync(); err != nil {
			c.server.event(Event{Kind: RequestFailed, Conn: c.id, Remote: c.remote, Export: c.export.Name, Err: err})
		}
	}
}
