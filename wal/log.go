// Package wal is a circular log of self-describing frames on a disk.Device. It knows
// nothing of what its records mean.
//
// What it promises:
//
//   - Append returns after its records were handed to the device: they survive the process.
//   - Flush returns after everything that was appended before it is durable.
//   - After any crash, Scan finds a prefix of what was appended, whole requests only, at
//     least up to the last Flush that returned. A torn end is cut off; damage below what
//     was durable is ErrCorrupt.
//
// What it assumes of the device stands in package disk. In particular: lines of 512 bytes
// are written whole or not at all, and a failed Flush proves nothing and is not repeated.
//
// Invariants:
//
//  1. Frames are written at ever higher positions. Only recovery goes back, and only to
//     positions beyond everything durable, or to a start frame with nothing behind it.
//  2. Nothing from the floor on (tail and pins) is overwritten.
//  3. A line is written only if no flush that has begun covers its 4 KiB sector.
//  4. A durable mark is the end of a barrier. Requests never span a barrier.
//  5. A frame's durableUpTo was true, in its own chain, before the frame was written. No
//     incarnation begins below a durable mark, so it stays true in every later chain.
//  6. A START frame is durable before any other frame of its epoch is written.
//
// The format is in FORMAT.md. The writer is in append.go and flush.go, recovery in scan.go
// and continue.go, space in space.go.
package wal

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"jnbd/disk"
)

// Log is a log that is appended to. Its methods may be called at the same time. Continue
// makes one.
type Log struct {
	dev    disk.Device
	geo    geometry
	opt    Options
	epoch  Epoch
	reader *Reader
	floor  atomic.Int64 // min(tail, pins); never goes back

	soft    chan struct{} // wakes the soft flusher; holds one
	closing chan struct{} // closed by Close
	ended   chan struct{} // closed by the soft flusher when it ends

	// appendMu makes appends one after the other: what is under it is the writer's.
	// It is taken before mu, and held while frames are written.
	appendMu sync.Mutex
	writer   writer

	// mu guards what everybody asks for. It is never held during i/o.
	mu             sync.Mutex
	failed         error        // the first failure; nothing is written after it
	closed         bool         // Close was called
	head           int64        // end of the last frame
	nextSeq        uint64       // of the frame that comes next
	tail           int64        // oldest live position
	start          Start        // of the tail
	durable        int64        // everything before it is durable
	recorded       int64        // the largest durable mark that a durable frame carries
	captured       int64        // head when the last flush began
	barrier        Point        // last durable barrier
	ahead          barrierFrame // the last one that stands at the end of an append
	beside         int64        // written beside the log, as the records say
	besideCaptured int64        // beside when the last flush began
	sinceFlush     int          // appends since the last flush began
	lone           int          // so many flushes in a row were for one append each
	points         []Point      // durable barriers that may become the tail, oldest first
	offered        []Start      // answers of TailBefore, oldest first
	boundaries     []chain      // live segment boundaries, oldest first
	pins           map[*Pin]struct{}
	running        *round        // the flush that is going on
	waiting        *round        // the one that comes after it
	changed        chan struct{} // closed by tellChangedLocked; nil if nobody asked
	counts         counts
}

// counts are totals since Continue.
type counts struct {
	appendedBytes, appends, frames, flushes, softFlushes uint64
}

// Stats is a look at a log.
type Stats struct {
	Tail        int64 // oldest live position
	Head        int64 // end of the last frame
	DurableUpTo int64 // everything before this position is durable
	// RecordedUpTo is the part of it that the log itself proves: a durable frame says so. A
	// scan after a crash takes everything before it for durable without looking.
	RecordedUpTo int64
	Barrier      Point // last durable barrier
	Size         int64 // of the ring in bytes
	Free         int64 // bytes that records may still take, headers and padding included
	NextSeq      uint64
	Epoch        Epoch

	AppendedBytes uint64 // written since Continue, headers, padding and summaries included
	Appends       uint64 // calls of Append
	Frames        uint64 // of every kind
	Flushes       uint64 // flushes of the device
	SoftFlushes   uint64 // those of them that the log began by itself
}

// Stats is how the log stands now.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		Tail:          l.tail,
		Head:          l.head,
		DurableUpTo:   l.durable,
		RecordedUpTo:  l.recorded,
		Barrier:       l.barrier,
		Size:          l.geo.size,
		Free:          max(0, l.geo.clientLimit(l.floor.Load())-l.head),
		NextSeq:       l.nextSeq,
		Epoch:         l.epoch,
		AppendedBytes: l.counts.appendedBytes,
		Appends:       l.counts.appends,
		Frames:        l.counts.frames,
		Flushes:       l.counts.flushes,
		SoftFlushes:   l.counts.softFlushes,
	}
}

// Barriers are positions of durable barriers, oldest first: the last one, and of those before
// it some in each segment that is live.
func (l *Log) Barriers() []Point {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.points)
}

// SegmentBytes is the size of a segment.
func (l *Log) SegmentBytes() int64 { return l.geo.seg }

// MaxRecordPayload is the longest payload of one record, in bytes.
func (l *Log) MaxRecordPayload() int { return MaxRecordPayload(l.geo.seg) }

// MaxAppendBytes is the largest batch that is sure to fit into the empty log, as the sum
// of RecordOverhead and payload over all records.
func (l *Log) MaxAppendBytes() int64 { return l.geo.maxAppendBytes() }

// maxAppendBytes: of a segment, a quarter may be lost before its end, to a record that
// doesn't fit any more, and less than 4 KiB to headers and padding. Besides the reserve,
// a segment may be lost at either end.
func (g geometry) maxAppendBytes() int64 {
	segments := g.size/g.seg - reserveSegments - 2
	return segments * (g.seg - g.seg/4 - SectorBytes)
}

// Err is the failure that stopped the log, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// usableLocked says why the log takes no more work.
func (l *Log) usableLocked() error {
	if l.failed != nil {
		return l.failed
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// fail makes err the log's failure unless it has one, and returns the one it has.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	first := l.failed == nil
	if first {
		l.failed = err
		l.tellChangedLocked()
	}
	err = l.failed
	l.mu.Unlock()
	if first && l.opt.OnFail != nil {
		l.opt.OnFail(err)
	}
	return err
}

// tellChangedLocked wakes those who wait on Changed.
func (l *Log) tellChangedLocked() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Changed is a channel that is closed when the next barrier is durable, or the log fails
// or is closed.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// Close stops the log's goroutine and refuses further appends and flushes. It flushes
// nothing, and waits for what is going on.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.tellChangedLocked()
	l.mu.Unlock()
	if first {
		close(l.closing)
	}
	<-l.ended
	l.appendMu.Lock() // an append that is going on ends first
	l.mu.Lock()
	r := l.running // it may still need appendMu
	l.mu.Unlock()
	l.appendMu.Unlock()
	if r != nil {
		<-r.done
	}
	return nil
}

// clock is the time for a frame.
func (l *Log) clock() time.Time { return l.opt.Now().UTC() }

func hexRange(pos, n int64) string { return fmt.Sprintf("positions %#x to %#x", pos, pos+n) }
