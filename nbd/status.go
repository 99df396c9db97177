package nbd

import (
	"encoding/binary"
	"fmt"
)

const (
	// maxStatusExtents bounds the extents of one BLOCK_STATUS reply. Clients ask again from
	// where a reply ends.
	maxStatusExtents = 4096
	// statusReplyBytes is the buffer for a BLOCK_STATUS reply.
	statusReplyBytes = statusHead + maxStatusExtents*statusExtent
)

// blockStatus answers a BLOCK_STATUS for base:allocation (proto.md, "Metadata context"):
// consecutive extents from the start of the range on, neighbours never alike, and one only
// if the client says so. None reaches beyond the range.
func (o *op) blockStatus() {
	c, req, most := o.c, &o.req, maxStatusExtents
	if req.flags&cfReqOne != 0 {
		most = 1
	}
	var (
		start, end = int64(req.offset), int64(req.offset) + int64(req.length)
		next       = start
		out        = o.buf.mem[statusHead:statusHead]
		length     uint32 // of the last extent; the range fits a uint32, and so does this
		flags      uint32 // of the last extent
	)
	err := c.export.Device.Extents(start, end-start, func(offset, n int64, hole, zero bool) bool {
		if offset != next || n <= 0 {
			return false
		}
		n = min(n, end-next)
		state := statusFlags(hole, zero)
		switch {
		case len(out) > 0 && state == flags:
			length += uint32(n)
			binary.BigEndian.PutUint32(out[len(out)-statusExtent:], length)
		case len(out) == most*statusExtent:
			return false
		default:
			length, flags = uint32(n), state
			out = binary.BigEndian.AppendUint32(out, length)
			out = binary.BigEndian.AppendUint32(out, flags)
		}
		next += n
		return next < end
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("block status at %d length %d: the device told of no extent", start, end-start)
	}
	if err != nil {
		o.finish(err)
		return
	}
	head := appendChunk(o.buf.mem[:0], chunkDone, chunkBlockStatus, req.cookie, 4+len(out))
	head = binary.BigEndian.AppendUint32(head, baseAllocationID)
	o.parts = append(o.parts[:0], o.buf.mem[:len(head)+len(out)])
	c.answered(cmdBlockStatus, o.received, 1)
	c.outbox.postOp(o) // o is not ours any more
	c.outbox.kick()
}

// statusFlags is an extent's state as the protocol writes it.
func statusFlags(hole, zero bool) uint32 {
	var flags uint32
	if hole {
		flags |= stateHole
	}
	if zero {
		flags |= stateZero
	}
	return flags
}
