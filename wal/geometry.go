package wal

import (
	"fmt"
	"math/bits"

	"jnbd/disk"
)

const (
	// LineBytes is the grain of the log: frames start on lines and fill whole lines. It is
	// the smallest unit that a device is believed to write whole or not at all.
	LineBytes = 512
	// SectorBytes is the grain of durability: the first frame after a flush starts on a
	// new sector, so that no later write touches a sector that holds durable bytes.
	SectorBytes = 4096

	// MinSegmentBytes and MaxSegmentBytes bound the segment, whatever the log's size.
	MinSegmentBytes = 64 << 10
	MaxSegmentBytes = 8 << 20

	// MinSegments is the least number of segments in a log.
	MinSegments = 8
	// MinLogBytes is the smallest log.
	MinLogBytes = MinSegments * MinSegmentBytes

	// reserveSegments is the space at the end of the ring that client records never take.
	// Barriers and start frames go there when the log is full, with the PAD and SUMMARY
	// they may need, so that a full log can always be flushed, recovered and checkpointed.
	reserveSegments = 2

	// payloadLimit bounds a record's payload in the largest logs.
	payloadLimit = 256 << 10

	// RecordOverhead is what a record costs at most besides its payload: its place in the
	// frame, and its copy in the SUMMARY that follows.
	RecordOverhead = 2 * recordBytes
)

// SegmentBytesFor is the segment size of a log of size bytes: a power of two, about a
// 64th of the log. Rounding size down to a multiple of the result doesn't change it.
func SegmentBytesFor(size int64) int64 {
	if size < 64*MinSegmentBytes {
		return MinSegmentBytes
	}
	seg := int64(1) << (bits.Len64(uint64(size/64)) - 1)
	return min(seg, MaxSegmentBytes)
}

// MaxRecordPayload is the longest payload of one record, in bytes, in a log with segments
// of segmentBytes. Longer requests are split into records, kept whole by Record.More.
func MaxRecordPayload(segmentBytes int64) int {
	return int(min(payloadLimit, segmentBytes/4))
}

// geometry maps positions to places.
type geometry struct {
	size int64 // of the ring, a multiple of seg
	seg  int64 // a power of two
}

// geometryOf is the geometry of a log on dev, or why there can be none.
func geometryOf(dev disk.Device) (geometry, error) {
	g := geometry{size: dev.Size()}
	g.seg = SegmentBytesFor(g.size)
	if g.size < MinLogBytes {
		return g, fmt.Errorf("log of %d bytes: at least %d are needed", g.size, MinLogBytes)
	}
	if g.size%g.seg != 0 {
		return g, fmt.Errorf("log of %d bytes: not a multiple of its segments of %d bytes", g.size, g.seg)
	}
	return g, nil
}

// offset is the place of a position in the ring.
func (g geometry) offset(pos int64) int64 { return pos % g.size }

// segmentStart is the boundary at or before pos.
func (g geometry) segmentStart(pos int64) int64 { return pos &^ (g.seg - 1) }

// segmentEnd is the first boundary after pos.
func (g geometry) segmentEnd(pos int64) int64 { return g.segmentStart(pos) + g.seg }

// isBoundary says whether a segment starts at pos.
func (g geometry) isBoundary(pos int64) bool { return pos&(g.seg-1) == 0 }

// wrapLimit is the end of the space that may hold frames while everything from floor on is
// live. It keeps off the sector that floor is in.
func (g geometry) wrapLimit(floor int64) int64 { return alignDown(floor, SectorBytes) + g.size }

// clientLimit is the part of wrapLimit that client records may fill.
func (g geometry) clientLimit(floor int64) int64 { return g.wrapLimit(floor) - reserveSegments*g.seg }

// maxSummaryPayload is the longest index that a SUMMARY holds; a longer one is left out.
func (g geometry) maxSummaryPayload() int64 { return g.seg / 4 }

func alignUp(n, to int64) int64   { return (n + to - 1) &^ (to - 1) }
func alignDown(n, to int64) int64 { return n &^ (to - 1) }
