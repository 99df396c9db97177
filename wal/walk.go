package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"jnbd/disk"
)

// readAhead is how much the walker reads at once.
const readAhead = 1 << 20

// walker reads a chain frame by frame, in large reads, a segment at a time.
//
// Where the next frame of a chain is that ends at X:
//
//  1. A START frame on the first 4 KiB line at or after X that says it continues exactly
//     this chain. It comes first, because frames of a request that recovery dropped may
//     still stand between X and that line.
//  2. A frame at X.
//  3. A frame on that 4 KiB line that is marked as first after a flush.
//
// Each must carry the chain's next sequence number. Segments begin with a SUMMARY or START.
type walker struct {
	geo      geometry
	readFrom func(p []byte, off int64) (int, error)
	limit    int64 // where the ring is full: no frame reaches beyond
	ahead    int64 // nothing at or beyond this position is worth reading; at most limit
	payloads bool  // check payloads too

	buf       []byte // of one segment, the bytes from base on
	base      int64
	filled    int64 // how many of them were read
	line      [LineBytes]byte
	aside     []byte // a SUMMARY that was read ahead
	bytesRead int64
}

func newWalker(dev disk.Device, geo geometry, direct bool, limit int64) *walker {
	w := &walker{geo: geo, readFrom: dev.ReadAt, limit: limit, ahead: limit, payloads: true, base: -1}
	if direct {
		w.readFrom = func(p []byte, off int64) (int, error) { return disk.ReadDirect(dev, p, off) }
	}
	return w
}

// tear is where and why a chain doesn't go on.
type tear struct {
	pos int64
	why error
	got string // detail, may be empty
}

func (t *tear) String() string {
	if t.got != "" {
		return fmt.Sprintf("%v at position %#x: %s", t.why, t.pos, t.got)
	}
	return fmt.Sprintf("%v at position %#x", t.why, t.pos)
}

// next finds the frame that continues c. It returns a tear where there is none. recs is
// valid until the next call.
func (w *walker) next(c chain) (h header, recs []byte, t *tear, err error) {
	if c.pos >= w.limit {
		return h, nil, &tear{pos: c.pos, why: errFull}, nil
	}
	if _, err = w.bytes(c.pos, LineBytes); err != nil { // sets the buffer to begin here
		return h, nil, nil, err
	}
	line := alignUp(c.pos, SectorBytes)
	if line < w.limit {
		if h, recs, err = w.startAt(line, c); err != nil || recs != nil {
			return h, recs, nil, err
		}
	}
	h, recs, t, err = w.frameAt(c.pos, c)
	if err != nil || t == nil || line == c.pos || line >= w.limit {
		return h, recs, t, err
	}
	ah, arecs, at, err := w.frameAt(line, c)
	if err != nil {
		return h, nil, nil, err
	}
	if at == nil && ah.flags&FlagAligned == 0 {
		at = &tear{pos: line, why: errNotAligned}
	}
	if at == nil {
		return ah, arecs, nil, nil
	}
	if t.why == errNoMagic {
		t = at
	}
	return h, nil, t, nil
}

// startAt is the START frame at pos if it continues c, and no recs otherwise.
func (w *walker) startAt(pos int64, c chain) (h header, recs []byte, err error) {
	head, err := w.peek(pos)
	if err != nil || binary.LittleEndian.Uint64(head) != magicWord || Kind(head[offKind]) != KindStart {
		return h, nil, err
	}
	h, recs, t, err := w.frameAt(pos, c)
	if err != nil || t != nil || h.kind != KindStart {
		return h, nil, err
	}
	return h, recs, nil
}

// peek is the line at pos, at or after the start of the buffer, without giving up the
// segment that is in there.
func (w *walker) peek(pos int64) ([]byte, error) {
	if pos < w.geo.segmentEnd(w.base) {
		return w.bytes(pos, LineBytes)
	}
	return w.line[:], w.read(w.line[:], pos)
}

// frameAt checks everything about the frame at pos as the next one of c.
func (w *walker) frameAt(pos int64, c chain) (h header, recs []byte, t *tear, err error) {
	torn := func(why error, format string, args ...any) (header, []byte, *tear, error) {
		return h, nil, &tear{pos: pos, why: why, got: fmt.Sprintf(format, args...)}, nil
	}
	head, err := w.bytes(pos, LineBytes)
	if err != nil {
		return h, nil, nil, err
	}
	h, why := decodeHeader(w.geo, head)
	if why == errNewer && h.pos == pos && h.seq == c.seq {
		return h, nil, nil, fmt.Errorf("frame at position %#x (seq %d): version %d, this program reads up to %d; use a newer one: %w",
			pos, h.seq, h.version, Version, ErrTooNew)
	}
	if why != nil {
		return torn(why, "want seq %d", c.seq)
	}
	if h.pos != pos {
		return torn(errOtherPos, "got %#x", h.pos)
	}
	if h.seq != c.seq {
		return torn(errOtherSeq, "got %d, want %d", h.seq, c.seq)
	}
	if h.kind != KindStart && h.epoch != c.epoch {
		return torn(errOtherEpoch, "got %s, want %s", h.epoch, c.epoch)
	}
	if w.geo.isBoundary(pos) && h.kind != KindSummary && h.kind != KindStart {
		return torn(errNotFirst, "got %s", h.kind)
	}
	if h.end() > w.limit {
		return torn(errBeyondLimit, "ends at %#x, the tail begins at %#x", h.end(), w.limit)
	}
	recs, t, err = w.body(&h)
	if err != nil || t != nil {
		return h, nil, t, err
	}
	if h.kind == KindStart {
		k := decodeLink(recs)
		if !k.continues(&h, c) {
			return torn(errChain, "it continues epoch %s at %#x", k.previous, k.end)
		}
	}
	return h, recs, nil, nil
}

// body reads and checks what follows a header: records, payloads, padding.
func (w *walker) body(h *header) (recs []byte, t *tear, err error) {
	if h.kind == KindPad {
		return w.buf[:0], nil, nil
	}
	size := h.length
	if !w.payloads && h.kind != KindSummary {
		size = headerBytes + int64(h.records)*recordBytes
	}
	b, err := w.bytes(h.pos, size)
	if err != nil {
		return nil, nil, err
	}
	recs, t = verifyBody(w.geo, h, b)
	return recs, t, nil
}

// index reads the payload of a SUMMARY frame, past the buffer. It is valid until the next
// call.
func (w *walker) index(h *header) (payload []byte, t *tear, err error) {
	if int64(cap(w.aside)) < h.length {
		w.aside = make([]byte, h.length)
	}
	b := w.aside[:h.length]
	if err := w.read(b, h.pos); err != nil {
		return nil, nil, err
	}
	if _, t := verifyBody(w.geo, h, b); t != nil {
		return nil, t, nil
	}
	return b[headerBytes+recordBytes:][:h.payload], nil, nil
}

// verifyBody checks the frame in b, whose header was decoded, and returns its records. If
// b ends behind the records, they are all that is checked.
func verifyBody(geo geometry, h *header, b []byte) (recs []byte, t *tear) {
	at := headerBytes + int64(h.records)*recordBytes
	recs = b[headerBytes:at]
	if crc := crc32.Update(seedOf(b), castagnoli, recs); crc != h.recordsCRC {
		return nil, &tear{h.pos, errRecordsCRC, fmt.Sprintf("seq %d: got %08x, want %08x", h.seq, crc, h.recordsCRC)}
	}
	if why := h.checkRecords(geo, recs); why != nil {
		return nil, &tear{h.pos, why, fmt.Sprintf("seq %d", h.seq)}
	}
	if int64(len(b)) < h.length {
		return recs, nil
	}
	le := binary.LittleEndian
	for r := 0; r < len(recs); r += recordBytes {
		n := int64(le.Uint32(recs[r+offRecPayloadLen:]))
		want := le.Uint32(recs[r+offRecPayloadCRC:])
		if crc := crc32.Checksum(b[at:at+n], castagnoli); crc != want {
			return nil, &tear{h.pos, errPayloadCRC, fmt.Sprintf("seq %d, record %d: got %08x, want %08x", h.seq, r/recordBytes, crc, want)}
		}
		at += n
	}
	for _, v := range b[at:] {
		if v != 0 {
			return nil, &tear{h.pos, errPadding, fmt.Sprintf("seq %d", h.seq)}
		}
	}
	return recs, nil
}

// bytes are n bytes at pos, all in one segment, valid until the next call.
func (w *walker) bytes(pos, n int64) ([]byte, error) {
	end := w.geo.segmentEnd(pos)
	if w.base < 0 || pos < w.base || end != w.geo.segmentEnd(w.base) {
		w.base, w.filled = alignDown(pos, SectorBytes), 0
	}
	if w.buf == nil {
		w.buf = make([]byte, w.geo.seg)
	}
	from := pos - w.base
	if from+n > w.filled {
		want := max(from+n, min(w.filled+readAhead, w.ahead-w.base))
		want = min(want, end-w.base)
		if err := w.read(w.buf[w.filled:want], w.base+w.filled); err != nil {
			w.base = -1
			return nil, err
		}
		w.filled = want
	}
	return w.buf[from : from+n], nil
}

// read fills p from a position. All of p is in one segment, so it doesn't wrap.
func (w *walker) read(p []byte, pos int64) error {
	n, err := w.readFrom(p, w.geo.offset(pos))
	w.bytesRead += int64(n)
	if err != nil && n < len(p) {
		return fmt.Errorf("read log at position %#x: %w", pos, err)
	}
	return nil
}
