package wal

import (
	"fmt"
	"hash/crc32"

	"jnbd/disk"
)

// An append, in order:
//
//  1. Check the batch, and plan where its frames go, with the PAD and SUMMARY frames that
//     are needed between them. If the end of the plan is beyond the limit, nothing has
//     happened yet: ErrFull.
//  2. Build headers and records in one scratch buffer; payloads stay where they are.
//  3. Write each contiguous range with one vectored write, the sector that it ends in whole:
//     zeros go where the next frame will. Half a sector would have the kernel read the rest
//     from the medium first, and the append wait for that.
//  4. Publish head, boundaries and counters.

// writer is what appends need. It is guarded by Log.appendMu.
type writer struct {
	at          chain // where the next frame goes
	align       bool  // it must start on a new sector, because a flush has begun
	index       index // of the current segment
	prevSummary int64
	tail        int64 // what the frames say
	durable     int64
	time        int64 // of the last append

	plan    plan
	scratch []byte
	runs    []run
	bufs    [][]byte
	passed  []chain
}

// run is a contiguous range of bytes to write.
type run struct {
	pos      int64
	length   int64
	fill     int64 // zeros behind it
	from, to int   // its buffers
}

var zeroSector [SectorBytes]byte

// Append writes recs in their order. On return they are the kernel's, and pos[i] is the
// position of recs[i]'s payload; pos is as long as recs. Flush makes them durable.
//
// ErrFull and ErrTooBig leave everything as it was. After a failed write the log has
// failed: that error and all later ones are the first.
//
// A batch is whole requests: its last record must not have More set. Concurrent calls are
// taken one after the other, in no particular order.
func (l *Log) Append(recs []Record, pos []int64) error { return l.append(recs, pos, false) }

// AppendBarrier is Append for a caller that flushes next. The batch ends with a barrier if it can, so
// that the flush need not write one. The barrier stands there whether the flush comes or not.
func (l *Log) AppendBarrier(recs []Record, pos []int64) error { return l.append(recs, pos, true) }

func (l *Log) append(recs []Record, pos []int64, barrier bool) error {
	if err := checkBatch(l.geo, recs, pos); err != nil {
		return fmt.Errorf("append to log: %w", err)
	}
	if len(recs) == 0 {
		return nil
	}
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	w := &l.writer
	limit, foreseen, err := l.beginAppend()
	if err != nil {
		return err
	}
	w.beginPlan(l.geo)
	if !w.plan.batch(recs, limit) {
		if need := batchBytes(recs); need > l.geo.maxAppendBytes() && l.emptyOf(w.at.pos) {
			return fmt.Errorf("append to log: %d records of %d bytes, at most %d are sure to fit: %w",
				len(recs), need, l.geo.maxAppendBytes(), ErrTooBig)
		}
		return fmt.Errorf("append to log: %d records at position %#x, records may go up to %#x: %w",
			len(recs), w.at.pos, limit, ErrFull)
	}
	barrier = (barrier || foreseen) && w.plan.endWithBarrier()
	if err := l.write(recs, pos); err != nil {
		return err
	}
	l.publish(func() {
		l.counts.appends++
		l.sinceFlush++
		for i := range recs {
			l.beside += recs[i].Beside
		}
		if barrier {
			l.ahead = l.lastFrameLocked()
		}
	})
	l.wakeSoftFlusher()
	return nil
}

// beginAppend says up to where records may go and whether a flush is likely to follow, and takes
// what the frames will say of the state of the log.
func (l *Log) beginAppend() (limit int64, foreseen bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return 0, false, err
	}
	l.writer.tail, l.writer.durable = l.tail, l.durable
	return l.geo.clientLimit(l.floor.Load()), l.foreseesFlushLocked(), nil
}

// emptyOf says whether nothing before head is live.
func (l *Log) emptyOf(head int64) bool {
	return alignUp(l.floor.Load(), SectorBytes) >= alignUp(head, SectorBytes)
}

// checkBatch refuses what the format can't hold.
func checkBatch(geo geometry, recs []Record, pos []int64) error {
	if len(pos) != len(recs) {
		return fmt.Errorf("%d records with room for %d positions", len(recs), len(pos))
	}
	longest := MaxRecordPayload(geo.seg)
	for i := range recs {
		r := &recs[i]
		if r.Kind < 1 || r.Kind > 127 {
			return fmt.Errorf("record %d: kind %d is not the caller's", i, r.Kind)
		}
		if len(r.Payload) > longest {
			return fmt.Errorf("record %d: payload of %d bytes, at most %d: %w", i, len(r.Payload), longest, ErrTooBig)
		}
	}
	if n := len(recs); n > 0 && recs[n-1].More {
		return fmt.Errorf("record %d: the last of a batch, but more of its request is announced", n-1)
	}
	return nil
}

// batchBytes is what MaxAppendBytes bounds.
func batchBytes(recs []Record) (n int64) {
	for i := range recs {
		n += RecordOverhead + int64(len(recs[i].Payload))
	}
	return n
}

func (w *writer) beginPlan(geo geometry) {
	w.plan = plan{
		geo: geo, pos: w.at.pos, align: w.align, frames: w.plan.frames[:0],
		entries: w.index.payloadBytes(), over: w.index.over,
	}
}

// write builds and writes the planned frames. The caller holds appendMu.
func (l *Log) write(recs []Record, pos []int64) error {
	w := &l.writer
	w.build(l, recs, pos)
	for _, r := range w.runs {
		if err := disk.WriteV(l.dev, w.bufs[r.from:r.to], l.geo.offset(r.pos)); err != nil {
			clear(w.bufs)
			return l.fail(fmt.Errorf("append to log: write %s: %w", hexRange(r.pos, r.length), err))
		}
	}
	clear(w.bufs) // the payloads are the caller's again
	return nil
}

// build fills scratch, bufs and runs, and moves the writer behind the plan.
func (w *writer) build(l *Log, recs []Record, pos []int64) {
	var size int64
	for i := range w.plan.frames {
		size += w.plan.frames[i].headBytes()
	}
	if int64(cap(w.scratch)) < size {
		w.scratch = make([]byte, size+size/4)
	}
	free := w.scratch[:size]
	w.bufs, w.runs, w.passed = w.bufs[:0], w.runs[:0], w.passed[:0]
	w.time = l.clock().UnixNano()
	for i := range w.plan.frames {
		f := &w.plan.frames[i]
		n := f.headBytes()
		head := free[:n:n]
		free = free[n:]
		h := header{
			version: Version, kind: f.kind, flags: f.flags, records: uint32(f.to - f.from),
			epoch: l.epoch, seq: w.at.seq, pos: f.pos, length: f.length, payload: f.payload,
			tail: w.tail, durable: w.durable, prevSummary: w.prevSummary, time: w.time, node: l.opt.Node,
		}
		written := f.length
		switch f.kind {
		case KindPad:
			clear(head)
			h.seal(head[:headerBytes])
			written = LineBytes
		case KindSummary:
			h.records = 1
			payload := head[headerBytes+recordBytes:]
			w.index.encode(payload, w.at.seq-1, f.open)
			putRecord(head[headerBytes:], recSummary, false, crc32.Checksum(payload, castagnoli), uint32(len(payload)), 0, 0, 0)
			h.seal(head[:headerBytes+recordBytes])
			at := chain{f.pos, w.at.seq, l.epoch}
			w.index.reset(at)
			w.passed = append(w.passed, at)
			w.prevSummary = f.pos
		case KindRecords:
			at := f.pos + n
			for j := f.from; j < f.to; j++ {
				r := &recs[j]
				encodeRecord(head[headerBytes+(j-f.from)*recordBytes:], r, crc32.Checksum(r.Payload, castagnoli))
				pos[j] = at
				at += int64(len(r.Payload))
			}
			h.seal(head)
			w.index.add(&h, head[headerBytes:], l.geo.segmentStart(f.pos))
		}
		w.gather(l.geo, f, head, recs, written)
		w.at.pos, w.at.seq = f.pos+f.length, w.at.seq+1
	}
	w.fillSector()
	w.align = w.plan.align
}

// headBytes is what the frame takes of scratch: all but records' payloads and padding.
func (f *planned) headBytes() int64 {
	switch f.kind {
	case KindPad:
		return LineBytes
	case KindSummary:
		return headerBytes + recordBytes + f.payload
	}
	return headerBytes + int64(f.to-f.from)*recordBytes
}

// gather enters a frame's buffers into the last run if it goes on there, or a new one.
func (w *writer) gather(geo geometry, f *planned, head []byte, recs []Record, written int64) {
	if n := len(w.runs); n == 0 || w.runs[n-1].pos+w.runs[n-1].length != f.pos || geo.offset(f.pos) == 0 {
		w.fillSector()
		w.runs = append(w.runs, run{pos: f.pos, from: len(w.bufs)})
	}
	w.bufs = append(w.bufs, head)
	size := int64(len(head))
	for j := f.from; j < f.to; j++ {
		if p := recs[j].Payload; len(p) > 0 {
			w.bufs = append(w.bufs, p)
			size += int64(len(p))
		}
	}
	if size < written {
		w.bufs = append(w.bufs, zeroSector[:written-size])
	}
	r := &w.runs[len(w.runs)-1]
	r.length += written
	r.to = len(w.bufs)
}

// fillSector ends the last run with zeros up to the end of its last sector, if it is the run
// that enters it. Nothing live is there: the space that frames may take ends with a sector.
func (w *writer) fillSector() {
	if len(w.runs) == 0 {
		return
	}
	r := &w.runs[len(w.runs)-1]
	end := r.pos + r.length
	if alignDown(end-1, SectorBytes) < r.pos || end%SectorBytes == 0 {
		return
	}
	r.fill = alignUp(end, SectorBytes) - end
	w.bufs = append(w.bufs, zeroSector[:r.fill])
	r.to = len(w.bufs)
}

// publish shows everybody what was written. The caller holds appendMu.
func (l *Log) publish(also func()) {
	w := &l.writer
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.nextSeq = w.at.pos, w.at.seq
	l.boundaries = append(l.boundaries, w.passed...)
	for _, r := range w.runs {
		l.counts.appendedBytes += uint64(r.length + r.fill)
	}
	l.counts.frames += uint64(len(w.plan.frames))
	also()
}
