package journal

import (
	"fmt"

	"jnbd/ordered"
	"jnbd/wal"
)

// The engine's record kinds, as they stand in the log for ever (journal/FORMAT.md). The log
// itself knows none of them. A number is never used again for something else.
const (
	// KindData: A is the disk offset, the payload is what stands there from now on.
	KindData uint8 = 1
	// KindZero: [A, A+B) reads as zeros. Aux 1 keeps the space, 0 lets the host have it.
	KindZero uint8 = 2
	// KindTrim: [A, A+B) is unneeded; it reads as zeros, and its space is the host's.
	KindTrim uint8 = 3
	// KindMap: whole blocks from disk offset A on were written once. B's low 24 bits are how
	// many; its high 40 bits are 1 + the spare slot they begin at, or 0: they are at home. Aux
	// is the CRC32C of their bytes, which were written before the record.
	KindMap uint8 = 4
	// KindHome: the blocks of [A, A+B) were brought home from spare, and that was flushed.
	KindHome uint8 = 5
)

// KindName is the word for a record kind in logs and listings.
func KindName(kind uint8) string {
	switch kind {
	case KindData:
		return "DATA"
	case KindZero:
		return "ZERO"
	case KindTrim:
		return "TRIM"
	case KindMap:
		return "MAP"
	case KindHome:
		return "HOME"
	}
	return fmt.Sprintf("KIND%d", kind)
}

// keepSpace is KindZero's Aux for "later writes here must not run out of space".
const keepSpace = 1

// mapBlockBits is how much of a MAP record's B is the number of blocks.
const mapBlockBits = 24

// mapRecord says that a direct write's part is at its target.
func mapRecord(t ordered.Target, crc uint32) wal.Record {
	r := wal.Record{Kind: KindMap, Aux: crc, A: uint64(t.Block * blockBytes), B: uint64(t.N), Beside: t.N * blockBytes}
	if !t.Home {
		r.B |= uint64(t.Slot+1) << mapBlockBits
	}
	return r
}

// appendData adds the records of one write: as many as its length asks for, tied together
// by More, so that recovery keeps all or none (P4).
func appendData(recs []wal.Record, p []byte, off int64, maxPayload int) []wal.Record {
	for len(p) > maxPayload {
		recs = append(recs, wal.Record{Kind: KindData, More: true, A: uint64(off), Payload: p[:maxPayload]})
		p, off = p[maxPayload:], off+int64(maxPayload)
	}
	return append(recs, wal.Record{Kind: KindData, A: uint64(off), Payload: p})
}

// extentOf is what a record found in the log means for the overlay.
func extentOf(r *wal.Located, diskBytes int64) (extent, error) {
	e := extent{off: int64(r.A)}
	n := int64(r.B)
	switch r.Kind {
	case KindData:
		n = int64(r.PayloadLen)
		e.pos, e.state = r.PayloadPos, logged
		e.crc, e.checked = r.PayloadCRC, true
	case KindZero:
		e.pos, e.state = zeroPos(r.PayloadPos), zeroed
		if r.Aux == keepSpace {
			e.state = zeroKept
		}
	case KindTrim:
		e.pos, e.state = zeroPos(r.PayloadPos), zeroed
	case KindMap:
		n = int64(r.B&(1<<mapBlockBits-1)) * blockBytes
		e.pos, e.state, e.crc = zeroPos(r.PayloadPos), mappedHome, r.Aux
		if slot := r.B >> mapBlockBits; slot != 0 {
			e.state, e.slot = mappedSpare, int64(slot-1)
		}
	case KindHome:
		e.pos, e.state = zeroPos(r.PayloadPos), broughtHome
	default:
		return extent{}, fmt.Errorf("record of unknown kind %d: written by a newer jnbd: %w", r.Kind, wal.ErrTooNew)
	}
	if e.off < 0 || n <= 0 || n > diskBytes || e.off > diskBytes-n {
		return extent{}, fmt.Errorf("%s record for [%d, +%d) on a disk of %d bytes: %w", KindName(r.Kind), e.off, n, diskBytes, wal.ErrCorrupt)
	}
	e.end = e.off + n
	if e.state >= mappedSpare && (e.off%blockBytes != 0 || e.end%blockBytes != 0 && e.end != diskBytes) {
		return extent{}, fmt.Errorf("%s record for [%d, +%d): not whole blocks: %w", KindName(r.Kind), e.off, n, wal.ErrCorrupt)
	}
	return e, nil
}

// zeroPos is the log position that stands for a record without payload. The place where
// its payload would be may already be the next frame's; one byte before is always its own,
// so "pos < tail" tells for every extent whether its frame lies before the tail.
func zeroPos(payloadPos int64) int64 { return payloadPos - 1 }
