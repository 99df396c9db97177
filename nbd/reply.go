package nbd

import "encoding/binary"

// appendSimple appends a simple reply; a READ's data follows.
func appendSimple(p []byte, cookie uint64, errno Errno) []byte {
	p = binary.BigEndian.AppendUint32(p, magicSimpleReply)
	p = binary.BigEndian.AppendUint32(p, uint32(errno))
	return binary.BigEndian.AppendUint64(p, cookie)
}

// appendSuccess appends the reply to a request that succeeded and has no content to bring:
// every command but READ and BLOCK_STATUS. Simple replies may be mixed with structured ones
// ("Simple replies" in proto.md), but not with extended ones.
func (s style) appendSuccess(p []byte, a asked) []byte {
	if s == extended {
		return s.appendNone(p, a)
	}
	return appendSimple(p, a.cookie, 0)
}

// appendChunk appends the header of a reply chunk with length bytes of payload.
func (s style) appendChunk(p []byte, flags, kind uint16, a asked, length int) []byte {
	magic := magicChunk
	if s == extended {
		magic = magicExtendedChunk
	}
	p = binary.BigEndian.AppendUint32(p, magic)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = binary.BigEndian.AppendUint16(p, kind)
	p = binary.BigEndian.AppendUint64(p, a.cookie)
	if s == extended {
		p = binary.BigEndian.AppendUint64(p, a.offset)
		return binary.BigEndian.AppendUint64(p, uint64(length))
	}
	return binary.BigEndian.AppendUint32(p, uint32(length))
}

// appendNone appends the chunk that ends a reply without content.
func (s style) appendNone(p []byte, a asked) []byte {
	return s.appendChunk(p, chunkDone, chunkNone, a, 0)
}

// appendData appends what precedes length bytes of data at offset.
func (s style) appendData(p []byte, flags uint16, a asked, offset int64, length int) []byte {
	p = s.appendChunk(p, flags, chunkOffsetData, a, dataHead+length)
	return binary.BigEndian.AppendUint64(p, uint64(offset))
}

// appendHole appends the chunk for length zeros at offset.
func (s style) appendHole(p []byte, flags uint16, a asked, offset int64, length int) []byte {
	p = s.appendChunk(p, flags, chunkOffsetHole, a, holePayload)
	p = binary.BigEndian.AppendUint64(p, uint64(offset))
	return binary.BigEndian.AppendUint32(p, uint32(length))
}

// appendFailure appends the reply to a request that failed: a chunk that says why where
// chunks were agreed, else a simple reply.
func (s style) appendFailure(p []byte, a asked, errno Errno, text string) []byte {
	if !s.chunked() {
		return appendSimple(p, a.cookie, errno)
	}
	text = clip(text)
	p = s.appendChunk(p, chunkDone, chunkError, a, 4+2+len(text))
	p = binary.BigEndian.AppendUint32(p, uint32(errno))
	p = binary.BigEndian.AppendUint16(p, uint16(len(text)))
	return append(p, text...)
}
