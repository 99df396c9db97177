package nbd

import (
	"encoding/binary"
	"fmt"
)

const (
	// statusContextBytes bounds the extents of one context in a BLOCK_STATUS reply: 4,096
	// compact ones or 2,048 extended ones. Clients ask again from where a reply ends.
	statusContextBytes = 32 << 10
)

// statusReplyBytes is the buffer for a BLOCK_STATUS reply about the contexts.
func statusReplyBytes(contexts contextSet) int {
	return contexts.count() * (maxStatusChunkTop + statusContextBytes)
}

// acceptPayload takes a request with a payload, but no WRITE, whose header is at the buffer's
// front. Only a BLOCK_STATUS may have one: the contexts that it is about. It reports
// whether the request came whole; otherwise more must be received.
func (c *conn) acceptPayload(req *request) (whole bool, err error) {
	no := c.refusalFor(req)
	if no.errno == 0 {
		most := uint64(statusQueryHead + len(metaContexts)*statusQueryContextID)
		if n := req.payload; n < statusQueryHead+statusQueryContextID || n > most || n%statusQueryContextID != 0 {
			no = refusal{EINVAL, fmt.Sprintf("a block status with %d bytes of payload, want a length and up to %d contexts", n, len(metaContexts))}
		}
	}
	head := c.style.requestSize()
	if no.errno == 0 && uint64(c.to-c.from) < uint64(head)+req.payload {
		return false, nil // nothing was done yet; it will be looked at again
	}
	c.from += head
	c.count.requests.Add(1)
	c.runBatchBefore(req.payload)
	if no.errno != 0 {
		if err := c.drainPayload(req.payload); err != nil {
			return false, err
		}
		c.refuse(req, no)
		return true, nil
	}
	f := fields{rest: c.input[c.from : c.from+int(req.payload)]}
	c.from += int(req.payload)
	req.length, req.payload, req.flags = f.uint64(), 0, req.flags&^cfPayload
	for len(f.rest) > 0 {
		i := c.contextAt(f.uint32())
		if i < 0 || req.contexts.has(i) {
			c.refuse(req, refusal{EINVAL, "block status about a context that was not agreed, or twice about one"})
			return true, nil
		}
		req.contexts |= 1 << i
	}
	return true, c.perform(req)
}

// contextAt is the index of the agreed context with an id, or -1.
func (c *conn) contextAt(id uint32) int {
	for i, context := range metaContexts {
		if context.id == id && c.contexts.has(i) {
			return i
		}
	}
	return -1
}

// blockStatus answers a BLOCK_STATUS (proto.md, "Metadata context") with one chunk for each
// context.
func (o *op) blockStatus() {
	c, req := o.c, &o.req
	out := o.buf.mem[:0]
	last := len(metaContexts) - 1
	for !req.contexts.has(last) {
		last--
	}
	for i := range metaContexts {
		if !req.contexts.has(i) {
			continue
		}
		var flags uint16
		if i == last {
			flags = chunkDone
		}
		var err error
		if out, err = o.appendStatus(out, flags, i); err != nil {
			o.finish(err)
			return
		}
	}
	o.parts = append(o.parts[:0], out)
	c.answered(&o.req, o.received)
	c.outbox.postOp(o) // o is not ours any more
	c.outbox.kick()
}

// appendStatus appends the chunk of one context: consecutive extents from the start of the
// range on, neighbours never alike, and one only if the client says so. None reaches
// beyond the range.
func (o *op) appendStatus(p []byte, flags uint16, context int) ([]byte, error) {
	var (
		start, end     = int64(o.req.offset), int64(o.req.offset + o.req.length)
		next, from     = start, start
		top            = o.c.style.statusTop()
		first          = len(p) + o.c.style.chunkSize() + top
		out            = p[:first]
		count          = 0
		state          uint32 // of the extent that from begins
		most           = statusContextBytes / o.c.style.statusExtentSize()
		describe       = metaContexts[context].state
		appendedExtent = func(n int64) { out = o.c.style.appendExtent(out, n, state); count++ }
	)
	if o.req.flags&cfReqOne != 0 {
		most = 1
	}
	err := o.c.export.Device.Extents(start, end-start, func(offset, n int64, hole, zero bool) bool {
		if offset != next || n <= 0 {
			return false
		}
		is := describe(hole, zero)
		if next > start && is != state {
			appendedExtent(next - from)
			if from = next; count == most {
				return false
			}
		}
		state = is
		next += min(n, end-next)
		return next < end
	})
	if err == nil && next == start {
		err = fmt.Errorf("block status at %d length %d: the device told of no extent", start, end-start)
	}
	if err != nil {
		return nil, err
	}
	if count < most {
		appendedExtent(next - from)
	}
	kind := chunkBlockStatus
	if o.c.style == extended {
		kind = chunkBlockStatusExt
	}
	head := o.c.style.appendChunk(p, flags, kind, o.req.asked, len(out)-first+top)
	head = binary.BigEndian.AppendUint32(head, metaContexts[context].id)
	if o.c.style == extended {
		binary.BigEndian.AppendUint32(head, uint32(count))
	}
	return out, nil
}

// statusTop is what precedes the extents in a BLOCK_STATUS chunk's payload.
func (s style) statusTop() int {
	if s == extended {
		return statusHeadExt
	}
	return statusHead
}

// statusExtentSize is the size of an extent in it.
func (s style) statusExtentSize() int {
	if s == extended {
		return statusExtentExt
	}
	return statusExtent
}

// appendExtent appends an extent. A compact one's length fits, because a request's does.
func (s style) appendExtent(p []byte, length int64, state uint32) []byte {
	if s == extended {
		p = binary.BigEndian.AppendUint64(p, uint64(length))
		return binary.BigEndian.AppendUint64(p, uint64(state))
	}
	p = binary.BigEndian.AppendUint32(p, uint32(length))
	return binary.BigEndian.AppendUint32(p, state)
}
