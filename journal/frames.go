package journal

import (
	"fmt"

	"jnbd/wal"
)

// FrameReader reads the frames of a log, and goes on where it ended as the log grows. It
// writes nothing. The disk may be in use by another process: what that appends is seen, and
// a Read that meets a place just being changed fails and can be repeated.
type FrameReader struct {
	parts Parts
	from  uint64    // the least sequence number to visit
	next  wal.Start // where the last Read ended
	begun bool
}

// NewFrameReader makes a reader of the frames from sequence number fromSeq on.
func NewFrameReader(p Parts, fromSeq uint64) *FrameReader {
	return &FrameReader{parts: p, from: fromSeq}
}

// Read calls visit for every frame that it has not been called for yet, oldest first. missed
// is how many bytes of log a checkpoint freed before this Read could get to them.
func (r *FrameReader) Read(visit func(*wal.Frame) error) (missed int64, err error) {
	super, err := loadSuper(r.parts, nil, true)
	if err != nil {
		return 0, err
	}
	d, err := newDisk(r.parts, r.parts.Backing, nil, super, Options{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	start := wal.Start{Tail: super.Tail, TailSeq: super.TailSeq, Epoch: super.TailEpoch, DurableUpTo: super.DurableUpTo}
	switch {
	case r.begun && start.Tail <= r.next.Tail:
		start = r.next
	case r.begun:
		missed = start.Tail - r.next.Tail
	}
	result, err := wal.Scan(d.ring, wal.ScanOptions{Start: start, Live: r.begun}, func(f *wal.Frame) error {
		if f.Seq < r.from {
			return nil
		}
		if err := visit(f); err != nil {
			return err
		}
		r.from = f.Seq + 1
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("from log position %#x on: %w", start.Tail, err)
	}
	r.begun = true
	r.next = wal.Start{Tail: result.End, TailSeq: result.NextSeq, Epoch: result.Epoch, DurableUpTo: min(result.DurableUpTo, result.End)}
	return missed, nil
}
