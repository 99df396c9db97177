package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The bytes of a frame; FORMAT.md beside this file is the same table in words. All
// integers are little endian. Magic, version, epoch, seq, pos and header CRC keep their
// places in every future version.
const (
	headerBytes = 128
	recordBytes = 32

	// Version is the frame format that this package writes, and the newest it reads.
	Version = 1

	offMagic       = 0   // 8  frameMagic
	offVersion     = 8   // 2  Version
	offKind        = 10  // 1  Kind
	offFlags       = 11  // 1  Flags
	offRecordCount = 12  // 4  records that follow the header
	offEpoch       = 16  // 16 incarnation of the log
	offSeq         = 32  // 8  sequence number, from 1, one more in each frame
	offPos         = 40  // 8  position of the frame
	offLength      = 48  // 4  bytes from this frame to the next, padding included
	offPayload     = 52  // 4  bytes of payload, the sum of the records'
	offTail        = 56  // 8  oldest live position when the frame was written
	offDurable     = 64  // 8  everything before this position was durable then
	offPrevSummary = 72  // 8  position of the newest SUMMARY before this frame, or -1
	offTime        = 80  // 8  nanoseconds since 1970 UTC
	offNode        = 88  // 4  cluster node that wrote the frame
	offRecordsCRC  = 92  // 4  seeded CRC32C of the records
	offReserved    = 96  // 28 zero
	offHeaderCRC   = 124 // 4  seeded CRC32C of bytes 0 to 123

	offRecKind       = 0  // 1  1 to 127: the caller's, from 128: the log's
	offRecFlags      = 1  // 1  bit 0: More
	offRecReserved   = 2  // 2  zero
	offRecPayloadCRC = 4  // 4  CRC32C of the payload, unseeded
	offRecPayloadLen = 8  // 4  bytes of payload
	offRecAux        = 12 // 4
	offRecA          = 16 // 8
	offRecB          = 24 // 8

	recFlagMore = 1
)

// Record kinds of the log itself.
const (
	recSummary  = 128 // payload: the index of the segment before
	recPrevious = 129 // START: A, B are the epoch before
	recChain    = 130 // START: A is the position where the chain before ends, B its last seq
	recEpoch    = 131 // START: A, B are the epoch that starts, Aux the node

	startRecords = 3
)

// frameMagic opens every frame.
var frameMagic = [8]byte{'j', 'n', 'b', 'd', 'f', 'r', 'm', 0x1a}

var magicWord = binary.LittleEndian.Uint64(frameMagic[:])

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// noSummary stands where there is no SUMMARY to point at.
const noSummary = -1

// header is the decoded fixed part of a frame.
type header struct {
	version     uint16
	kind        Kind
	flags       Flags
	records     uint32
	epoch       Epoch
	seq         uint64
	pos         int64
	length      int64
	payload     int64
	tail        int64
	durable     int64
	prevSummary int64
	time        int64
	node        uint32
	recordsCRC  uint32
}

func (h *header) end() int64 { return h.pos + h.length }

// frameBytes is the length of a frame with that many records and bytes of payload.
func frameBytes(records int, payload int64) int64 {
	return alignUp(headerBytes+int64(records)*recordBytes+payload, LineBytes)
}

// seedOf starts a checksum with epoch and seq, which stand together in the header.
func seedOf(head []byte) uint32 {
	return crc32.Update(0, castagnoli, head[offEpoch:offPos])
}

// encode writes h into head, all but the checksum of the records that follow it there:
// seal puts in both checksums when the records are in place.
func (h *header) encode(head []byte) {
	le := binary.LittleEndian
	copy(head[offMagic:], frameMagic[:])
	le.PutUint16(head[offVersion:], h.version)
	head[offKind] = byte(h.kind)
	head[offFlags] = byte(h.flags)
	le.PutUint32(head[offRecordCount:], h.records)
	copy(head[offEpoch:], h.epoch[:])
	le.PutUint64(head[offSeq:], h.seq)
	le.PutUint64(head[offPos:], uint64(h.pos))
	le.PutUint32(head[offLength:], uint32(h.length))
	le.PutUint32(head[offPayload:], uint32(h.payload))
	le.PutUint64(head[offTail:], uint64(h.tail))
	le.PutUint64(head[offDurable:], uint64(h.durable))
	le.PutUint64(head[offPrevSummary:], uint64(h.prevSummary))
	le.PutUint64(head[offTime:], uint64(h.time))
	le.PutUint32(head[offNode:], h.node)
	le.PutUint32(head[offRecordsCRC:], h.recordsCRC)
	clear(head[offReserved:offHeaderCRC])
	le.PutUint32(head[offHeaderCRC:], crc32.Update(seedOf(head), castagnoli, head[:offHeaderCRC]))
}

// seal computes both checksums over head, which holds header and records.
func (h *header) seal(head []byte) {
	copy(head[offEpoch:], h.epoch[:])
	binary.LittleEndian.PutUint64(head[offSeq:], h.seq)
	h.recordsCRC = crc32.Update(seedOf(head), castagnoli, head[headerBytes:])
	h.encode(head)
}

// Why bytes are no frame. They are plain values, because searching for frames makes many.
var (
	errNoMagic     = errors.New("no frame here")
	errHeaderCRC   = errors.New("header checksum is wrong")
	errNewer       = errors.New("frame of a newer version")
	errReserved    = errors.New("reserved bytes are not zero")
	errFields      = errors.New("header fields contradict each other")
	errRecordsCRC  = errors.New("records checksum is wrong")
	errPayloadCRC  = errors.New("payload checksum is wrong")
	errRecord      = errors.New("record is not as the format says")
	errPadding     = errors.New("padding is not zero")
	errOtherPos    = errors.New("frame belongs to another position")
	errOtherSeq    = errors.New("frame has another sequence number")
	errOtherEpoch  = errors.New("frame belongs to another epoch")
	errStopped     = errors.New("the caller stopped the scan")
	errNotFirst    = errors.New("segment begins with neither a summary nor a start frame")
	errNotAligned  = errors.New("frame on a 4 KiB line is not marked as first after a flush")
	errChain       = errors.New("start frame continues another chain")
	errBeyondLimit = errors.New("frame reaches into the live tail")
	errFull        = errors.New("the ring is full")
)

// IsFrame reports whether a whole header of a frame begins p, of this version or a newer one,
// wherever it was found.
func IsFrame(p []byte) bool {
	le := binary.LittleEndian
	return len(p) >= headerBytes && le.Uint64(p[offMagic:]) == magicWord &&
		le.Uint32(p[offHeaderCRC:]) == crc32.Update(seedOf(p), castagnoli, p[:offHeaderCRC])
}

// decodeHeader takes a header from the first bytes of a line and checks all that can be
// checked without its records. Of a newer version, only the fields that never move are
// filled in.
func decodeHeader(geo geometry, head []byte) (header, error) {
	var h header
	le := binary.LittleEndian
	if le.Uint64(head[offMagic:]) != magicWord {
		return h, errNoMagic
	}
	if !IsFrame(head) {
		return h, errHeaderCRC
	}
	h.version = le.Uint16(head[offVersion:])
	copy(h.epoch[:], head[offEpoch:])
	h.seq = le.Uint64(head[offSeq:])
	h.pos = int64(le.Uint64(head[offPos:]))
	if h.version > Version {
		return h, errNewer
	}
	h.kind = Kind(head[offKind])
	h.flags = Flags(head[offFlags])
	h.records = le.Uint32(head[offRecordCount:])
	h.length = int64(le.Uint32(head[offLength:]))
	h.payload = int64(le.Uint32(head[offPayload:]))
	h.tail = int64(le.Uint64(head[offTail:]))
	h.durable = int64(le.Uint64(head[offDurable:]))
	h.prevSummary = int64(le.Uint64(head[offPrevSummary:]))
	h.time = int64(le.Uint64(head[offTime:]))
	h.node = le.Uint32(head[offNode:])
	h.recordsCRC = le.Uint32(head[offRecordsCRC:])
	for _, b := range head[offReserved:offHeaderCRC] {
		if b != 0 {
			return h, errReserved
		}
	}
	if !h.consistent(geo) {
		return h, errFields
	}
	return h, nil
}

// consistent holds the rules that relate the fields of a header to each other. Lengths are
// bounded here, before anybody takes them for the size of a buffer.
func (h *header) consistent(geo geometry) bool {
	if h.version == 0 || h.epoch.IsZero() || h.seq == 0 || h.pos < 0 || h.pos%LineBytes != 0 {
		return false
	}
	if h.length < LineBytes || h.length%LineBytes != 0 || h.length > geo.segmentEnd(h.pos)-h.pos {
		return false
	}
	if h.tail < 0 || h.tail > h.pos || h.durable < 0 || h.durable > h.pos {
		return false
	}
	if h.prevSummary < noSummary || h.prevSummary >= h.pos {
		return false
	}
	if h.flags&FlagAligned != 0 && h.pos%SectorBytes != 0 {
		return false
	}
	if h.kind != KindPad && h.length != frameBytes(int(h.records), h.payload) {
		return false
	}
	boundary := geo.isBoundary(h.pos)
	rest := h.flags &^ FlagAligned
	switch h.kind {
	case KindRecords:
		switch rest {
		case 0, FlagMore:
			return h.records > 0 && !boundary
		case FlagBarrier:
			return !boundary
		}
	case KindStart:
		return h.flags == FlagBarrier|FlagAligned && h.records == startRecords && h.payload == 0
	case KindPad:
		return rest == 0 && h.records == 0 && h.payload == 0 && !boundary && h.end() == geo.segmentEnd(h.pos)
	case KindSummary:
		return (rest == 0 || rest == FlagIncomplete) && h.records == 1 && boundary &&
			h.payload >= summaryHeadBytes && h.payload <= geo.maxSummaryPayload()
	}
	return false
}

// encodeRecord writes a record of the caller's.
func encodeRecord(b []byte, r *Record, crc uint32) {
	putRecord(b, r.Kind, r.More, crc, uint32(len(r.Payload)), r.Aux, r.A, r.B)
}

func putRecord(b []byte, kind uint8, more bool, crc, length, aux uint32, ra, rb uint64) {
	le := binary.LittleEndian
	b[offRecKind] = kind
	b[offRecFlags] = 0
	if more {
		b[offRecFlags] = recFlagMore
	}
	le.PutUint16(b[offRecReserved:], 0)
	le.PutUint32(b[offRecPayloadCRC:], crc)
	le.PutUint32(b[offRecPayloadLen:], length)
	le.PutUint32(b[offRecAux:], aux)
	le.PutUint64(b[offRecA:], ra)
	le.PutUint64(b[offRecB:], rb)
}

// decodeRecord takes a record whose payload is at payloadPos.
func decodeRecord(b []byte, payloadPos int64) Located {
	le := binary.LittleEndian
	return Located{
		Kind:       b[offRecKind],
		More:       b[offRecFlags]&recFlagMore != 0,
		Aux:        le.Uint32(b[offRecAux:]),
		A:          le.Uint64(b[offRecA:]),
		B:          le.Uint64(b[offRecB:]),
		PayloadPos: payloadPos,
		PayloadLen: le.Uint32(b[offRecPayloadLen:]),
		PayloadCRC: le.Uint32(b[offRecPayloadCRC:]),
	}
}

// checkRecords holds the rules for the records of a frame: kinds, reserved bits, lengths
// that add up, and More set on the last one exactly if the header says so.
func (h *header) checkRecords(geo geometry, recs []byte) error {
	le := binary.LittleEndian
	longest := uint32(MaxRecordPayload(geo.seg))
	if h.kind == KindSummary {
		longest = uint32(geo.maxSummaryPayload())
	}
	var sum int64
	var more bool
	for at := 0; at < len(recs); at += recordBytes {
		b := recs[at : at+recordBytes]
		kind, length := b[offRecKind], le.Uint32(b[offRecPayloadLen:])
		var legal bool
		switch h.kind {
		case KindRecords:
			legal = kind >= 1 && kind <= 127
		case KindSummary:
			legal = kind == recSummary
		case KindStart:
			legal = int(kind) == recPrevious+at/recordBytes
		}
		if !legal || length > longest || b[offRecFlags]&^recFlagMore != 0 || le.Uint16(b[offRecReserved:]) != 0 {
			return errRecord
		}
		sum += int64(length)
		more = b[offRecFlags]&recFlagMore != 0
	}
	if sum != h.payload || more != (h.flags&FlagMore != 0) {
		return errRecord
	}
	return nil
}
