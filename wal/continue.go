package wal

import (
	"errors"
	"fmt"

	"jnbd/disk"
)

// How a log goes on after a scan:
//
//  1. Write the bytes between the durable mark and the end of the kept chain again, as
//     they are. After a failed flush the page cache may hold them as clean although the
//     medium never got them; this makes them dirty.
//  2. Write a START frame with a new epoch on the next 4 KiB line, and flush. What stands
//     behind it of earlier incarnations doesn't verify in the new one.
//
// A crash in between leaves a log that scans like before: nothing that was kept is
// changed, and the START frame is one line, so it is there or not.
//
// The START frame is a barrier, so the log can be freed up to it without another one. If
// the log is so full that less than a segment is left, and the chain ends with a START
// frame, the new one takes its place: any number of crashes in a row need no more space.

// resealPiece is how much is read and written again at once.
const resealPiece = 1 << 20

// Continue makes the log that r describes ready for appends. r is fresh: nothing wrote to
// dev since its scan. On return everything that the scan kept is durable. ErrFull can only
// come of a log that another program filled.
func Continue(dev disk.Device, r *ScanResult, opt Options) (*Log, error) {
	geo, err := geometryOf(dev)
	if err != nil {
		return nil, fmt.Errorf("continue log: %w", err)
	}
	l := &Log{
		dev: dev, geo: geo, opt: opt.withDefaults(), reader: &Reader{dev, geo},
		soft: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
		pins: make(map[*Pin]struct{}),
	}
	if err := l.begin(r); err != nil {
		return nil, fmt.Errorf("continue log at position %#x (seq %d): %w", r.End, r.NextSeq, err)
	}
	go l.softFlusher() // ended by Close
	return l, nil
}

// begin does what Continue says. Nobody else knows the log yet.
func (l *Log) begin(r *ScanResult) error {
	at, boundaries, err := l.placeStart(r)
	if err != nil {
		return err
	}
	if err := l.loadIndex(r, at, boundaries); err != nil {
		return err
	}
	if err := l.reseal(r.DurableUpTo, at.pos); err != nil {
		return err
	}
	l.tail, l.start = r.Start.Tail, r.Start
	l.floor.Store(l.tail)
	l.durable = min(r.DurableUpTo, at.pos)
	l.boundaries = append([]chain(nil), boundaries...)
	w := &l.writer
	w.at, w.prevSummary, w.tail, w.durable = at, r.prevSummary, l.tail, l.durable
	return l.writeStart()
}

// placeStart says where the chain ends that the START frame continues.
func (l *Log) placeStart(r *ScanResult) (at chain, boundaries []chain, err error) {
	at, boundaries = chain{r.End, r.NextSeq, r.Epoch}, r.boundaries
	limit := l.geo.wrapLimit(r.Start.Tail)
	end := alignUp(at.pos, SectorBytes) + frameBytes(startRecords, 0)
	if end > limit-l.geo.seg && r.lastStart != nil {
		at = r.lastStart.before
		end = r.lastStart.pos + frameBytes(startRecords, 0)
		for n := len(boundaries); n > 0 && boundaries[n-1].pos >= r.lastStart.pos; n-- {
			boundaries = boundaries[:n-1]
		}
	}
	if end > limit {
		return at, nil, fmt.Errorf("start frame would end at %#x, up to %#x is free: %w", end, limit, ErrFull)
	}
	return at, boundaries, nil
}

// loadIndex walks the segment that the chain ends in, so that the SUMMARY behind it will
// list the frames from before the crash too.
func (l *Log) loadIndex(r *ScanResult, end chain, boundaries []chain) error {
	x := &l.writer.index
	x.limit = l.geo.maxSummaryPayload()
	c := chainAt(r.Start)
	if n := len(boundaries); n > 0 {
		c = boundaries[n-1]
	}
	if l.geo.segmentEnd(c.pos) <= end.pos {
		x.reset(end) // the chain ends at a boundary
		return nil
	}
	x.reset(c)
	w := newWalker(l.dev, l.geo, false, l.geo.wrapLimit(r.Start.Tail))
	w.ahead, w.payloads = alignUp(end.pos, SectorBytes), false
	for c.pos < end.pos {
		h, recs, t, err := w.next(c)
		if err != nil {
			return err
		}
		if t != nil {
			return fmt.Errorf("%v, where the scan found a frame", t)
		}
		x.add(&h, recs, l.geo.segmentStart(h.pos))
		c = chain{h.end(), h.seq + 1, h.epoch}
	}
	if c != end {
		return errors.New("the log is not as the scan found it")
	}
	return nil
}

// reseal is step 1. The durable mark is the end of a flush, so what comes after it begins
// in a new sector.
func (l *Log) reseal(durable, end int64) error {
	var piece []byte
	for pos := alignUp(durable, SectorBytes); pos < end; {
		n := min(end-pos, resealPiece, l.geo.segmentEnd(pos)-pos)
		if piece == nil {
			piece = make([]byte, min(resealPiece, end-pos))
		}
		off := l.geo.offset(pos)
		if k, err := l.dev.ReadAt(piece[:n], off); int64(k) < n {
			return fmt.Errorf("read %s: %w", hexRange(pos, n), err)
		}
		if _, err := l.dev.WriteAt(piece[:n], off); err != nil {
			return fmt.Errorf("write %s again: %w", hexRange(pos, n), err)
		}
		pos += n
	}
	return nil
}

// writeStart is step 2.
func (l *Log) writeStart() error {
	w := &l.writer
	before := w.at
	l.epoch = l.opt.newEpoch()
	h := header{
		version: Version, kind: KindStart, flags: FlagBarrier | FlagAligned, records: startRecords,
		epoch: l.epoch, seq: before.seq, pos: alignUp(before.pos, SectorBytes), length: frameBytes(startRecords, 0),
		tail: w.tail, durable: w.durable, prevSummary: w.prevSummary, time: l.clock().UnixNano(), node: l.opt.Node,
	}
	frame := make([]byte, h.length)
	k := link{previous: before.epoch, end: before.pos, lastSeq: before.seq - 1, epoch: l.epoch, node: l.opt.Node}
	recs := frame[headerBytes : headerBytes+startRecords*recordBytes]
	k.encode(recs)
	h.seal(frame[:headerBytes+len(recs)])
	if _, err := l.dev.WriteAt(frame, l.geo.offset(h.pos)); err != nil {
		return fmt.Errorf("write start frame at position %#x: %w", h.pos, err)
	}
	if err := l.dev.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if l.geo.isBoundary(h.pos) {
		at := chain{h.pos, before.seq, before.epoch}
		l.boundaries = append(l.boundaries, at)
		w.index.reset(at)
	}
	w.index.add(&h, recs, l.geo.segmentStart(h.pos))
	w.at, w.align = chain{h.end(), h.seq + 1, l.epoch}, true
	l.head, l.nextSeq, l.captured = h.end(), h.seq+1, h.end()
	l.counts.flushes, l.counts.frames, l.counts.appendedBytes = 1, 1, uint64(h.length)
	l.barrierDurableLocked(Point{h.end(), h.seq, timeOf(h.time)})
	return nil
}
