package nbd

import "encoding/binary"

// style is how the requests and replies of a connection look. The negotiation settles it.
type style int

const (
	// simple: compact requests, simple replies only.
	simple style = iota
	// structured: compact requests, chunks where a reply has content.
	structured
	// extended: requests and replies with extended headers, chunks only. Lengths of 64 bits.
	extended
)

// chunked reports whether replies may come in chunks.
func (s style) chunked() bool { return s != simple }

// requestSize is the size of a request's header.
func (s style) requestSize() int {
	if s == extended {
		return extendedRequestSize
	}
	return requestHeaderSize
}

// chunkSize is the size of a reply chunk's header.
func (s style) chunkSize() int {
	if s == extended {
		return extendedChunkSize
	}
	return chunkHeaderSize
}

// asked is what of a request stands in the replies to it.
type asked struct{ cookie, offset uint64 }

// request is a decoded request.
type request struct {
	flags uint16
	cmd   uint16
	asked
	// length is how much of the disk the request is about.
	length uint64
	// payload is how many bytes follow the header.
	payload uint64
	// contexts are those that a BLOCK_STATUS asks about; none means all that were agreed.
	contexts contextSet
}

// decode decodes a header of requestSize bytes. It reports false when the magic is wrong: the
// stream is out of step and nothing that follows can be believed.
func (s style) decode(b []byte) (request, bool) {
	_ = b[s.requestSize()-1]
	r := request{
		flags: binary.BigEndian.Uint16(b[4:]),
		cmd:   binary.BigEndian.Uint16(b[6:]),
		asked: asked{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])},
	}
	magic := binary.BigEndian.Uint32(b)
	if s == extended {
		r.length = binary.BigEndian.Uint64(b[24:])
		if r.flags&cfPayload != 0 {
			r.payload = r.length
		}
		return r, magic == magicExtendedRequest
	}
	r.length = uint64(binary.BigEndian.Uint32(b[24:]))
	if r.cmd == cmdWrite {
		r.payload = r.length
	}
	return r, magic == magicRequest
}
