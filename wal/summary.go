package wal

import "encoding/binary"

// The payload of a SUMMARY: a head, then for every RECORDS and START frame of the segment
// before an entry, followed by copies of that frame's records.
const (
	summaryHeadBytes = 64
	entryBytes       = 32

	offSumFrom     = 0  // 8  position from which on the index is whole
	offSumFirstSeq = 8  // 8  sequence number of the first frame at or after it
	offSumLastSeq  = 16 // 8  sequence number of the frame before the SUMMARY
	offSumEpoch    = 24 // 16 epoch of the chain at that position
	offSumEntries  = 40 // 4  number of entries
	offSumFlags    = 44 // 4  bit 0: a request is open across the boundary
	offSumReserved = 48 // 16 zero

	offEntOffset   = 0  // 4  of the frame in its segment
	offEntLength   = 4  // 4  of the frame in bytes
	offEntSeq      = 8  // 4  low half of its sequence number
	offEntRecords  = 12 // 4  number of its records, which follow
	offEntTime     = 16 // 8  as in the frame
	offEntPayload  = 24 // 4  as in the frame
	offEntKind     = 28 // 1  Kind
	offEntFlags    = 29 // 1  Flags
	offEntReserved = 30 // 2  zero

	sumFlagOpen = 1
)

// index collects what the next SUMMARY will say of the current segment.
type index struct {
	limit   int64 // longest payload
	from    chain // where it begins
	entries []byte
	count   uint32
	over    bool // it became too long and was dropped
}

// reset starts the index of what follows c.
func (x *index) reset(c chain) {
	x.from, x.entries, x.count, x.over = c, x.entries[:0], 0, false
}

// add enters a frame. Frames that are neither RECORDS nor START are not indexed.
func (x *index) add(h *header, recs []byte, segmentStart int64) {
	if x.over || (h.kind != KindRecords && h.kind != KindStart) {
		return
	}
	if x.bytesWith(len(recs)/recordBytes) > x.limit {
		x.over, x.count, x.entries = true, 0, x.entries[:0]
		return
	}
	le := binary.LittleEndian
	var e [entryBytes]byte
	le.PutUint32(e[offEntOffset:], uint32(h.pos-segmentStart))
	le.PutUint32(e[offEntLength:], uint32(h.length))
	le.PutUint32(e[offEntSeq:], uint32(h.seq))
	le.PutUint32(e[offEntRecords:], h.records)
	le.PutUint64(e[offEntTime:], uint64(h.time))
	le.PutUint32(e[offEntPayload:], uint32(h.payload))
	e[offEntKind], e[offEntFlags] = byte(h.kind), byte(h.flags)
	x.entries = append(append(x.entries, e[:]...), recs...)
	x.count++
}

// bytesWith is the length of the payload after one more frame with that many records.
func (x *index) bytesWith(records int) int64 {
	return summaryHeadBytes + int64(len(x.entries)+entryBytes+records*recordBytes)
}

// payloadBytes is the length of the payload as it is now.
func (x *index) payloadBytes() int64 { return summaryHeadBytes + int64(len(x.entries)) }

// encode writes the payload. lastSeq is of the frame before the SUMMARY.
func (x *index) encode(b []byte, lastSeq uint64, open bool) {
	le := binary.LittleEndian
	le.PutUint64(b[offSumFrom:], uint64(x.from.pos))
	le.PutUint64(b[offSumFirstSeq:], x.from.seq)
	le.PutUint64(b[offSumLastSeq:], lastSeq)
	copy(b[offSumEpoch:], x.from.epoch[:])
	le.PutUint32(b[offSumEntries:], x.count)
	var flags uint32
	if open {
		flags = sumFlagOpen
	}
	le.PutUint32(b[offSumFlags:], flags)
	clear(b[offSumReserved:summaryHeadBytes])
	copy(b[summaryHeadBytes:], x.entries)
}

// summary is a decoded index.
type summary struct {
	from    chain
	lastSeq uint64
	count   uint32
	open    bool
	entries []byte
}

// decodeSummary takes the payload of the SUMMARY with that header.
func decodeSummary(geo geometry, h *header, b []byte) (summary, error) {
	var s summary
	if len(b) < summaryHeadBytes {
		return s, errFields
	}
	le := binary.LittleEndian
	s.from.pos = int64(le.Uint64(b[offSumFrom:]))
	s.from.seq = le.Uint64(b[offSumFirstSeq:])
	copy(s.from.epoch[:], b[offSumEpoch:])
	s.lastSeq = le.Uint64(b[offSumLastSeq:])
	s.count = le.Uint32(b[offSumEntries:])
	flags := le.Uint32(b[offSumFlags:])
	s.open = flags&sumFlagOpen != 0
	for _, v := range b[offSumReserved:summaryHeadBytes] {
		if v != 0 {
			return s, errReserved
		}
	}
	s.entries = b[summaryHeadBytes:]
	inside := s.from.pos >= h.pos-geo.seg && s.from.pos <= h.pos
	if flags&^sumFlagOpen != 0 || !inside || s.lastSeq != h.seq-1 || s.from.seq > h.seq {
		return s, errFields
	}
	if h.flags&FlagIncomplete != 0 && (s.count != 0 || len(s.entries) != 0) {
		return s, errFields
	}
	return s, nil
}

// next takes the first entry as the header that its frame has, as far as the index knows
// it, and returns what follows. Epoch, tail and durable are for the caller to fill in.
func (s *summary) next(geo geometry, sum *header) (h header, recs []byte, rest summary, err error) {
	rest = *s
	b := s.entries
	if len(b) < entryBytes {
		return h, nil, rest, errFields
	}
	le := binary.LittleEndian
	h = header{
		version: Version,
		kind:    Kind(b[offEntKind]),
		flags:   Flags(b[offEntFlags]),
		records: le.Uint32(b[offEntRecords:]),
		seq:     sum.seq - uint64(uint32(sum.seq)-le.Uint32(b[offEntSeq:])),
		pos:     sum.pos - geo.seg + int64(le.Uint32(b[offEntOffset:])),
		length:  int64(le.Uint32(b[offEntLength:])),
		payload: int64(le.Uint32(b[offEntPayload:])),
		time:    int64(le.Uint64(b[offEntTime:])),
		node:    sum.node,
		// Not in the index; whoever uses the entry fills in what the chain knows.
		epoch:       sum.epoch,
		prevSummary: noSummary,
	}
	if le.Uint16(b[offEntReserved:]) != 0 || int64(le.Uint32(b[offEntOffset:])) >= geo.seg {
		return h, nil, rest, errFields
	}
	if h.kind != KindRecords && h.kind != KindStart {
		return h, nil, rest, errFields
	}
	if !h.consistent(geo) || int64(h.records) > int64(len(b)-entryBytes)/recordBytes {
		return h, nil, rest, errFields
	}
	end := entryBytes + int(h.records)*recordBytes
	recs, rest.entries = b[entryBytes:end], b[end:]
	return h, recs, rest, h.checkRecords(geo, recs)
}

// walk checks that the index is a gapless piece of chain from c to the SUMMARY, and then
// calls visit for its frames. first is the frame at c if that is a SUMMARY itself, which
// no index lists. Nothing is visited if anything is wrong.
func (s *summary) walk(geo geometry, sum *header, c chain, first *header, visit func(*header, []byte, chain) error) error {
	if err := s.step(geo, sum, c, first, nil); err != nil {
		return err
	}
	return s.step(geo, sum, c, first, visit)
}

func (s *summary) step(geo geometry, sum *header, c chain, first *header, visit func(*header, []byte, chain) error) error {
	if s.from.pos > c.pos {
		return errChain
	}
	start := c.pos
	if first != nil {
		if visit != nil {
			if err := visit(first, nil, c); err != nil {
				return err
			}
		}
		c = chain{first.end(), first.seq + 1, first.epoch}
	}
	rest := *s
	var open bool
	for n := s.count; n > 0; n-- {
		h, recs, after, err := rest.next(geo, sum)
		if err != nil {
			return err
		}
		rest = after
		if h.pos < start {
			continue
		}
		h.epoch, h.tail, h.durable, h.prevSummary = c.epoch, min(sum.tail, h.pos), min(sum.durable, h.pos), sum.prevSummary
		if h.kind == KindStart {
			k := decodeLink(recs)
			h.epoch, h.node = k.epoch, k.node
			if !k.continues(&h, c) {
				return errChain
			}
			open = false
		}
		aligned := h.pos == alignUp(c.pos, SectorBytes) && h.flags&FlagAligned != 0
		if h.seq != c.seq || (h.pos != c.pos && !aligned) {
			return errChain
		}
		if h.kind == KindRecords {
			open = h.flags&FlagMore != 0
		}
		if visit != nil {
			if err := visit(&h, recs, c); err != nil {
				return err
			}
		}
		c = chain{h.end(), h.seq + 1, h.epoch}
	}
	if len(rest.entries) != 0 || c.epoch != sum.epoch || (open && !s.open) {
		return errChain
	}
	padded := c.seq+1 == sum.seq && c.pos < sum.pos
	seamless := c.seq == sum.seq && alignUp(c.pos, SectorBytes) == sum.pos
	if !padded && !seamless {
		return errChain
	}
	return nil
}
