package nbd

import "encoding/binary"

// appendSimple appends a simple reply. It answers every command but READ and BLOCK_STATUS,
// also where structured replies were agreed ("Simple replies" in proto.md), and READ
// where they were not; a READ's data follows.
func appendSimple(p []byte, cookie uint64, errno Errno) []byte {
	p = binary.BigEndian.AppendUint32(p, magicSimpleReply)
	p = binary.BigEndian.AppendUint32(p, uint32(errno))
	return binary.BigEndian.AppendUint64(p, cookie)
}

// appendChunk appends the header of a structured reply chunk with length bytes of payload.
func appendChunk(p []byte, flags, kind uint16, cookie uint64, length int) []byte {
	p = binary.BigEndian.AppendUint32(p, magicChunk)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = binary.BigEndian.AppendUint16(p, kind)
	p = binary.BigEndian.AppendUint64(p, cookie)
	return binary.BigEndian.AppendUint32(p, uint32(length))
}

// appendNone appends the chunk that ends a reply without content.
func appendNone(p []byte, cookie uint64) []byte {
	return appendChunk(p, chunkDone, chunkNone, cookie, 0)
}

// appendData appends what precedes length bytes of data at offset.
func appendData(p []byte, flags uint16, cookie uint64, offset int64, length int) []byte {
	p = appendChunk(p, flags, chunkOffsetData, cookie, 8+length)
	return binary.BigEndian.AppendUint64(p, uint64(offset))
}

// appendHole appends the chunk for length zeros at offset.
func appendHole(p []byte, flags uint16, cookie uint64, offset int64, length int) []byte {
	p = appendChunk(p, flags, chunkOffsetHole, cookie, 8+4)
	p = binary.BigEndian.AppendUint64(p, uint64(offset))
	return binary.BigEndian.AppendUint32(p, uint32(length))
}

// appendFailure appends the reply to a request that failed: a chunk that says why where
// structured replies were agreed, else a simple reply.
func appendFailure(p []byte, structured bool, cookie uint64, errno Errno, text string) []byte {
	if !structured {
		return appendSimple(p, cookie, errno)
	}
	text = clip(text)
	p = appendChunk(p, chunkDone, chunkError, cookie, 4+2+len(text))
	p = binary.BigEndian.AppendUint32(p, uint32(errno))
	p = binary.BigEndian.AppendUint16(p, uint16(len(text)))
	return append(p, text...)
}
