package wal

import (
	"fmt"

	"jnbd/disk"
)

// Reader reads payloads by position in a log that nobody appends to. Its methods may be
// called at the same time.
type Reader struct {
	dev disk.Device
	geo geometry
}

// NewReader is a Reader of the log on dev.
func NewReader(dev disk.Device) (*Reader, error) {
	geo, err := geometryOf(dev)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &Reader{dev, geo}, nil
}

// SegmentBytes is the size of a segment.
func (r *Reader) SegmentBytes() int64 { return r.geo.seg }

// ReadAt fills p from a position inside a payload. What it reads is not checked; who needs
// that compares with Located.PayloadCRC.
func (r *Reader) ReadAt(p []byte, pos int64) (int, error) {
	if err := r.check(p, pos); err != nil {
		return 0, err
	}
	n, err := r.dev.ReadAt(p, r.geo.offset(pos))
	if err != nil && n < len(p) {
		return n, fmt.Errorf("read log at position %#x: %w", pos, err)
	}
	return n, nil
}

// ReadCachedAt is ReadAt without waiting: disk.ErrNotCached says that it would have to.
func (r *Reader) ReadCachedAt(p []byte, pos int64) error {
	if err := r.check(p, pos); err != nil {
		return err
	}
	return disk.ReadCached(r.dev, p, r.geo.offset(pos))
}

// check refuses what no payload spans: payloads never straddle a segment boundary.
func (r *Reader) check(p []byte, pos int64) error {
	if pos < 0 || pos+int64(len(p)) > r.geo.segmentEnd(pos) {
		return fmt.Errorf("read log at position %#x: %d bytes are not inside a segment", pos, len(p))
	}
	return nil
}

// ReadAt fills p from a position inside a live payload, as Append and scans give them. It
// returns ErrFreed if the space was freed before or while it was read; p is undefined
// then. Reads go on after the log has failed. What is read is not checked.
func (l *Log) ReadAt(p []byte, pos int64) (int, error) {
	if err := l.checkLive(pos); err != nil {
		return 0, err
	}
	n, err := l.reader.ReadAt(p, pos)
	if err != nil {
		return n, err
	}
	return n, l.checkLive(pos)
}

// ReadCachedAt is ReadAt without waiting: disk.ErrNotCached says that it would have to.
func (l *Log) ReadCachedAt(p []byte, pos int64) error {
	if err := l.checkLive(pos); err != nil {
		return err
	}
	if err := l.reader.ReadCachedAt(p, pos); err != nil {
		return err
	}
	return l.checkLive(pos)
}

// checkLive refuses positions whose space may be overwritten. The floor never goes back,
// and writes keep off everything from it on, so asking after a read proves the read.
func (l *Log) checkLive(pos int64) error {
	if floor := l.floor.Load(); pos < floor {
		return fmt.Errorf("read log at position %#x, live from %#x on: %w", pos, floor, ErrFreed)
	}
	return nil
}
