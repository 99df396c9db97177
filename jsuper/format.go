package jsuper

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// The bytes of one slot; the table with words is FORMAT.md. Little endian throughout.
//
// The first block of constants is fixed for all versions to come, so that any version can
// tell a newer superblock from a damaged one and see which slot is the newest. A version
// is free to change everything else.
const (
	// slotBytes is the length of a slot. Every version's checksum covers all of it.
	slotBytes = 4096

	offMagic      = 0  //  8
	offVersion    = 8  //  4
	offCRC        = 12 //  4  CRC32C of the slot with these four bytes zero
	offGeneration = 16 //  8
	offCompat     = 24 //  8
	offIncompat   = 32 //  8
	offROCompat   = 40 //  8
)

// The layout of version 1.
const (
	offDiskUUID     = 48  // 16
	offNode         = 64  //  4
	offMode         = 68  //  1
	offState        = 69  //  1
	offPlacement    = 70  //  1
	offReserved1    = 71  //  1  zero
	offCreated      = 72  //  8  ns since 1970
	offUpdated      = 80  //  8  ns since 1970
	offDiskBytes    = 88  //  8
	offLogOffset    = 96  //  8
	offLogBytes     = 104 //  8
	offSegmentBytes = 112 //  8
	offSpareOffset  = 120 //  8
	offSpareBytes   = 128 //  8
	offSpareCap     = 136 //  8
	offEpoch        = 144 // 16
	offTailEpoch    = 160 // 16
	offTail         = 176 //  8
	offTailSeq      = 184 //  8
	offDurableUpTo  = 192 //  8
	offBarrierSeq   = 200 //  8
	offBarrierTime  = 208 //  8  ns since 1970
	offPrintSize    = 216 //  8
	offPrintModTime = 224 //  8  ns since 1970
	offPrintCount   = 232 //  4
	offReserved2    = 236 //  4  zero
	offPrintBlocks  = 240 // 32 of 12: block 8, crc 4
	offStateOffset  = 624 //  8
	offStateGen     = 632 //  8
	offDeviceBytes  = 640 //  8
	offBackingID    = 648 // 16
	offIncarnation  = 664 //  8  with FeatureIncarnation
	offBootID       = 672 // 16  likewise
	offReserved3    = 688 // zero up to the end
)

// blockSumBytes is the length of one entry at offPrintBlocks.
const blockSumBytes = 12

// version is the format this program writes.
const version = 1

// magic begins every slot. The first byte is no text, so that a text file is never ours,
// and the line feed catches a transfer that translated line ends.
var magic = [8]byte{0x8a, 'j', 'n', 'b', 'd', 's', 'b', '\n'}

// castagnoli is the CRC32C table; the hardware computes it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// le is the byte order of the format.
var le = binary.LittleEndian

// encode lays out sb, which must be valid, as one slot.
func encode(sb *Superblock) []byte {
	b := make([]byte, slotBytes)
	copy(b[offMagic:], magic[:])
	le.PutUint32(b[offVersion:], version)
	le.PutUint64(b[offGeneration:], sb.Generation)
	le.PutUint64(b[offCompat:], sb.Compat)
	le.PutUint64(b[offIncompat:], sb.Incompat)
	le.PutUint64(b[offROCompat:], sb.ROCompat)

	copy(b[offDiskUUID:], sb.DiskUUID[:])
	le.PutUint32(b[offNode:], sb.Node)
	b[offMode] = byte(sb.Mode)
	b[offState] = byte(sb.State)
	b[offPlacement] = byte(sb.Placement)
	putTime(b[offCreated:], sb.CreatedAt)
	putTime(b[offUpdated:], sb.UpdatedAt)
	putInt64(b[offDiskBytes:], sb.DiskBytes)
	putInt64(b[offLogOffset:], sb.LogOffset)
	putInt64(b[offLogBytes:], sb.LogBytes)
	putInt64(b[offSegmentBytes:], sb.SegmentBytes)
	putInt64(b[offSpareOffset:], sb.SpareOffset)
	putInt64(b[offSpareBytes:], sb.SpareBytes)
	putInt64(b[offSpareCap:], sb.SpareCap)
	copy(b[offEpoch:], sb.Epoch[:])
	copy(b[offTailEpoch:], sb.TailEpoch[:])
	putInt64(b[offTail:], sb.Tail)
	le.PutUint64(b[offTailSeq:], sb.TailSeq)
	putInt64(b[offDurableUpTo:], sb.DurableUpTo)
	le.PutUint64(b[offBarrierSeq:], sb.BarrierSeq)
	putTime(b[offBarrierTime:], sb.BarrierTime)

	putInt64(b[offStateOffset:], sb.StateOffset)
	le.PutUint64(b[offStateGen:], sb.StateGeneration)
	putInt64(b[offDeviceBytes:], sb.DeviceBytes)
	copy(b[offBackingID:], sb.BackingID[:])
	le.PutUint64(b[offIncarnation:], sb.Incarnation)
	copy(b[offBootID:], sb.BootID[:])

	putInt64(b[offPrintSize:], sb.Fingerprint.Size)
	putInt64(b[offPrintModTime:], sb.Fingerprint.ModTimeNs)
	le.PutUint32(b[offPrintCount:], uint32(sb.Fingerprint.Count))
	for i, sample := range sb.Fingerprint.Blocks {
		entry := b[offPrintBlocks+i*blockSumBytes:]
		le.PutUint64(entry, sample.Block)
		le.PutUint32(entry[8:], sample.CRC)
	}
	le.PutUint32(b[offCRC:], checksum(b))
	return b
}

// header is what every version of the format says in the same place.
type header struct {
	version                    uint32
	generation                 uint64
	compat, incompat, roCompat uint64
}

// decodeHeader believes nothing but the magic, which the caller has seen, until the
// checksum is right. An error means: torn or damaged.
func decodeHeader(b []byte) (header, error) {
	if got, want := checksum(b), le.Uint32(b[offCRC:]); got != want {
		return header{}, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	return header{
		version:    le.Uint32(b[offVersion:]),
		generation: le.Uint64(b[offGeneration:]),
		compat:     le.Uint64(b[offCompat:]),
		incompat:   le.Uint64(b[offIncompat:]),
		roCompat:   le.Uint64(b[offROCompat:]),
	}, nil
}

// tooNew says why this version can't understand the slot, or "".
func (h header) tooNew() string {
	switch {
	case h.version > version:
		return fmt.Sprintf("format version %d, this program knows up to %d", h.version, version)
	case h.incompat&^knownIncompat != 0:
		return fmt.Sprintf("unknown incompatible features %#x", h.incompat&^knownIncompat)
	}
	return ""
}

// decode reads the fields of a slot whose header h was decoded and is not too new, and
// asserts them. Accepted bytes encode to themselves.
func decode(b []byte, h header) (*Superblock, error) {
	switch {
	case h.version != version:
		return nil, fmt.Errorf("format version %d, want %d", h.version, version)
	case h.generation == 0:
		return nil, fmt.Errorf("generation 0, want 1 or more")
	}
	for _, r := range []struct{ from, to int }{
		{offReserved1, offCreated}, {offReserved2, offPrintBlocks}, {offReserved3, slotBytes},
	} {
		if i := firstNonZero(b[r.from:r.to]); i >= 0 {
			return nil, fmt.Errorf("reserved byte %d is %#02x, want 0", r.from+i, b[r.from+i])
		}
	}
	sb := &Superblock{
		Generation: h.generation,
		Compat:     h.compat,
		Incompat:   h.incompat,
		ROCompat:   h.roCompat,

		DiskUUID:     [16]byte(b[offDiskUUID:]),
		Node:         le.Uint32(b[offNode:]),
		Mode:         Mode(b[offMode]),
		State:        State(b[offState]),
		Placement:    Placement(b[offPlacement]),
		CreatedAt:    getTime(b[offCreated:]),
		UpdatedAt:    getTime(b[offUpdated:]),
		DiskBytes:    getInt64(b[offDiskBytes:]),
		LogOffset:    getInt64(b[offLogOffset:]),
		LogBytes:     getInt64(b[offLogBytes:]),
		SegmentBytes: getInt64(b[offSegmentBytes:]),
		SpareOffset:  getInt64(b[offSpareOffset:]),
		SpareBytes:   getInt64(b[offSpareBytes:]),
		SpareCap:     getInt64(b[offSpareCap:]),

		StateOffset:     getInt64(b[offStateOffset:]),
		StateGeneration: le.Uint64(b[offStateGen:]),
		DeviceBytes:     getInt64(b[offDeviceBytes:]),
		BackingID:       [16]byte(b[offBackingID:]),
		Incarnation:     le.Uint64(b[offIncarnation:]),
		BootID:          [16]byte(b[offBootID:]),

		Epoch:       [16]byte(b[offEpoch:]),
		TailEpoch:   [16]byte(b[offTailEpoch:]),
		Tail:        getInt64(b[offTail:]),
		TailSeq:     le.Uint64(b[offTailSeq:]),
		DurableUpTo: getInt64(b[offDurableUpTo:]),
		BarrierSeq:  le.Uint64(b[offBarrierSeq:]),
		BarrierTime: getTime(b[offBarrierTime:]),
		Fingerprint: Fingerprint{
			Size:      getInt64(b[offPrintSize:]),
			ModTimeNs: getInt64(b[offPrintModTime:]),
			Count:     int(le.Uint32(b[offPrintCount:])),
		},
	}
	for i := range sb.Fingerprint.Blocks {
		entry := b[offPrintBlocks+i*blockSumBytes:]
		sb.Fingerprint.Blocks[i] = BlockSum{Block: le.Uint64(entry), CRC: le.Uint32(entry[8:])}
	}
	if err := sb.Validate(); err != nil {
		return nil, err
	}
	return sb, nil
}

// checksum is the CRC32C of a slot with the checksum's own field taken as zero.
func checksum(b []byte) uint32 {
	var zero [4]byte
	crc := crc32.Update(0, castagnoli, b[:offCRC])
	crc = crc32.Update(crc, castagnoli, zero[:])
	return crc32.Update(crc, castagnoli, b[offCRC+len(zero):])
}

// firstNonZero is the index of the first byte that is not zero, or -1.
func firstNonZero(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}

func putInt64(b []byte, v int64) { le.PutUint64(b, uint64(v)) }

func getInt64(b []byte) int64 { return int64(le.Uint64(b)) }

// putTime writes nanoseconds since 1970, and 0 for the zero time.
func putTime(b []byte, t time.Time) {
	if t.IsZero() {
		putInt64(b, 0)
		return
	}
	putInt64(b, t.UnixNano())
}

// getTime is putTime's inverse. Negative values come out before 1970, which Validate
// refuses.
func getTime(b []byte) time.Time {
	ns := getInt64(b)
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
