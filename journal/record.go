package journal

import (
	"fmt"

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
	}
	return fmt.Sprintf("KIND%d", kind)
}

// keepSpace is KindZero's Aux for "later writes here must not run out of space".
const keepSpace = 1

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
	default:
		return extent{}, fmt.Errorf("record of unknown kind %d: written by a newer jnbd: %w", r.Kind, wal.ErrTooNew)
	}
	if e.off < 0 || n <= 0 || n > diskBytes || e.off > diskBytes-n {
		return extent{}, fmt.Errorf("%s record for [%d, +%d) on a disk of %d bytes: %w", KindName(r.Kind), e.off, n, diskBytes, wal.ErrCorrupt)
	}
	e.end = e.off + n
	return e, nil
}

// zeroPos is the log position that stands for a record without payload. The place where
// its payload would be may already be the next frame's; one byte before is always its own,
// so "pos < tail" tells for every extent whether its frame lies before the tail.
func zeroPos(payloadPos int64) int64 { return payloadPos - 1 }
