package journal

import (
	"errors"
	"fmt"
	"hash/crc32"

	"jnbd/disk"
	"jnbd/ordered"
)

// A write that goes out once (DESIGN, section 5):
//
//  1. Its whole blocks get destinations: their homes where those are empty and nothing
//     logged waits for them, else spare slots. If there is no room, the log takes it all.
//  2. The bytes are written there, outside of every lock; nothing refers to them yet. What goes
//     past the page cache goes together with that of other requests (gather.go). If the host has
//     no space for them, the log takes it all, and the homes are as empty as before.
//  3. One append of MAP records, each with the checksum of what it speaks of, gives the
//     write its place in the order; pieces of blocks at its edges go along as DATA.
//  4. Under the locks of the append the destinations become the blocks' bases.
//
// If the checkpointer needed one of the homes between 1 and 3, the reservation is stolen, and
// the write takes the log after all: it is slower, not wrong.

// errStolen is place's word for step 3's failure.
var errStolen = errors.New("the checkpointer needs a home of this write")

// writeDirect writes p at off once. handled is false when it must take the log.
func (d *Disk) writeDirect(p []byte, off int64, flush bool, admit func() bool) (handled bool, err error) {
	o := d.once
	first, last := blocksOf(off), (off+int64(len(p)))/blockBytes
	if last <= first {
		return false, nil
	}
	res, ok := o.state.Reserve(first, last-first, d.nothingLogged)
	if !ok && d.makeRoom() {
		res, ok = o.state.Reserve(first, last-first, d.nothingLogged)
	}
	if !ok {
		return false, nil
	}
	q := d.newPending()
	defer d.release(q)
	if edge := first*blockBytes - off; edge > 0 {
		q.recs = appendData(q.recs, p[:edge], off, d.maxPayload)
		q.bytes += edge
	}
	targets := res.Targets()
	for _, t := range targets {
		part := piece{of: q, p: p[t.Block*blockBytes-off:][:t.N*blockBytes], home: t.Home, off: t.Slot * blockBytes}
		if t.Home {
			part.off = t.Block * blockBytes
		}
		q.pieces = append(q.pieces, part)
		q.recs = append(q.recs, mapRecord(t, crc32.Checksum(part.p, castagnoli)))
	}
	if edge := last*blockBytes - off; edge < int64(len(p)) {
		q.recs = appendData(q.recs, p[edge:], last*blockBytes, d.maxPayload)
		q.bytes += int64(len(p)) - edge
	}
	for i := range q.recs[:len(q.recs)-1] {
		q.recs[i].More = true // one request: all or nothing
	}
	q.direct = res
	q.clientBytes = int64(len(p))
	q.flush = flush
	past := o.slots.pastCache(targets)
	var written bool
	if past {
		written, err = d.writeGathered(q, admit)
	} else if written, err = d.writeEach(q.pieces); written {
		res.Written()
		err = d.submit(q, admit)
	}
	if written {
		o.direct.Store(past)
	}
	if err == nil {
		return true, nil
	}
	res.Abort()
	switch {
	case written:
		return !errors.Is(err, errStolen), err
	case refusedSpace(err):
		return false, nil
	}
	return true, d.poisonWith(err)
}

// writeEach is step 2 for what does not go past the page cache, or not all of it.
func (d *Disk) writeEach(pieces []piece) (written bool, err error) {
	for i := range pieces {
		p := &pieces[i]
		if !p.home {
			if err := d.writeSlots([][]byte{p.p}, p.off, p.end()-p.off); err != nil {
				return false, err
			}
			continue
		}
		if _, err := d.home.WriteAt(p.p, p.off); err != nil {
			return false, fmt.Errorf("write %d bytes in place at %d: %w", len(p.p), p.off, err)
		}
		d.once.homeDirty.Store(true)
		d.writeBackEarly(d.once.homeBytes.Add(uint64(len(p.p))), uint64(len(p.p)))
	}
	return true, nil
}

// writeSlots writes bufs, n bytes together, to the spare area from off on.
func (d *Disk) writeSlots(bufs [][]byte, off, n int64) error {
	if err := d.once.slots.write(bufs, off, n); err != nil {
		return fmt.Errorf("write %d bytes to spare slot %d: %w", n, off/blockBytes, err)
	}
	d.once.spareBytes.Add(uint64(n))
	return nil
}

// WritesDirect reports whether the last bulk write went past the page cache, from the caller's own
// buffer. It is a hint for who lends such buffers.
func (d *Disk) WritesDirect() bool { return d.once != nil && d.once.direct.Load() }

// earlyBytes is how much is written in place before the medium is given it. Less would have the
// kernel write a large page of its cache twice more often.
const earlyBytes = 8 << 20

// writeBackEarly has the homes written out of the host's cache each time that earlyBytes have gone
// into it, when n bytes made it total: else all that lies between two flushes of bulk would
// be written in the second, while nothing is received.
func (d *Disk) writeBackEarly(total, n uint64) {
	if total/earlyBytes != (total-n)/earlyBytes {
		disk.WriteBack(d.home, 0, d.home.Size())
	}
}

// nothingLogged reports that no logged bytes wait to be brought home to these blocks.
func (d *Disk) nothingLogged(block, n int64) bool {
	return !d.overlay.covers(block*blockBytes, min((block+n)*blockBytes, d.size))
}

// sealDirect makes sure that a batch's reservations hold until they are applied. Those that
// don't are told so. The caller holds appendMu.
func sealDirect(batch []*pending) {
	for _, p := range batch {
		if p.err == nil && p.direct != nil && !p.direct.Seal() {
			p.err = errStolen
		}
	}
}

// unsealDirect takes it back: the append has to wait.
func unsealDirect(batch []*pending) {
	for _, p := range batch {
		if p.err == nil && p.direct != nil {
			p.direct.Unseal()
		}
	}
}

// baseExtents appends to dst what the bases of [off, end) say, which no logged extent owns.
func (d *Disk) baseExtents(dst []extent, off, end int64) []extent {
	first := off / blockBytes
	var room [8]ordered.Piece
	for _, p := range d.once.state.Lookup(room[:0], first, blocksOf(end)-first) {
		e := extent{off: p.Block * blockBytes, end: (p.Block + p.N) * blockBytes}
		switch p.Where {
		case ordered.Home:
			e.state = atHome
		case ordered.Spare:
			e.state, e.pos = inSpare, p.Slot*blockBytes
		default:
			e.state = zeroed
		}
		dst = append(dst, e.cut(off, end))
	}
	return dst
}
