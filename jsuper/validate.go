package jsuper

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// maxBytes bounds every size, offset and position, so that sums of two never overflow.
const maxBytes = 1 << 61

// logAlign is what the log's start on its device is aligned to, so that the log's 4 KiB
// lines are the device's as well.
const logAlign = 4096

// tailAlign is the log's line: frames begin and end on one, and so do tails.
const tailAlign = 512

// Validate asserts what must hold in every superblock, whatever device it is on. It is
// asked before a slot is written and after one is read. The error names the first field
// that is wrong, with its value and what would be right; it wraps no sentinel, because
// the caller knows whether the fault is on disk or in the program.
func (sb *Superblock) Validate() error {
	switch {
	case sb.DiskUUID == [16]byte{}:
		return fmt.Errorf("disk uuid is all zero")
	case !sb.Mode.valid():
		return fmt.Errorf("mode %d, want 1 (data), 2 (ordered) or 3 (auto)", uint8(sb.Mode))
	case !sb.State.valid():
		return fmt.Errorf("state %d, want 1 (clean), 2 (dirty) or 3 (closed)", uint8(sb.State))
	case !sb.Placement.valid():
		return fmt.Errorf("placement %d, want 1 (beside) or 2 (internal)", uint8(sb.Placement))
	case sb.DiskBytes < 1 || sb.DiskBytes > maxBytes:
		return fmt.Errorf("disk size %d, want 1 to %d", sb.DiskBytes, int64(maxBytes))
	case (sb.Incompat&FeatureIncarnation != 0) != (sb.Incarnation != 0):
		return fmt.Errorf("incarnation %#x, want one only with incompatible feature %#x, and with it always", sb.Incarnation, FeatureIncarnation)
	case sb.Incarnation == 0 && sb.BootID != [16]byte{}:
		return fmt.Errorf("boot id %x without an incarnation", sb.BootID)
	}
	if err := sb.validateLayout(); err != nil {
		return err
	}
	if err := sb.validateTail(); err != nil {
		return err
	}
	for _, t := range []struct {
		name string
		time time.Time
	}{{"created", sb.CreatedAt}, {"updated", sb.UpdatedAt}, {"barrier", sb.BarrierTime}} {
		if !encodableTime(t.time) {
			return fmt.Errorf("%s time %s, want 1970 to 2262", t.name, t.time.UTC().Format(time.RFC3339))
		}
	}
	return sb.Fingerprint.validate()
}

// validateLayout checks the log's and the spare area's place.
func (sb *Superblock) validateLayout() error {
	switch {
	case sb.SegmentBytes < logAlign || bits.OnesCount64(uint64(sb.SegmentBytes)) != 1 || sb.SegmentBytes > maxBytes:
		return fmt.Errorf("segment size %d, want a power of two, at least %d", sb.SegmentBytes, logAlign)
	case sb.LogBytes < sb.SegmentBytes || sb.LogBytes > maxBytes || sb.LogBytes%sb.SegmentBytes != 0:
		return fmt.Errorf("log size %d, want a multiple of the segment size %d", sb.LogBytes, sb.SegmentBytes)
	case sb.LogOffset < 0 || sb.LogOffset > maxBytes || sb.LogOffset%logAlign != 0:
		return fmt.Errorf("log offset %d, want a multiple of %d", sb.LogOffset, logAlign)
	case sb.Placement == Beside && sb.LogOffset < ReservedBytes:
		return fmt.Errorf("log offset %d is inside the superblock, want at least %d", sb.LogOffset, ReservedBytes)
	case sb.Placement == Internal && sb.LogOffset < sb.DiskBytes:
		return fmt.Errorf("log offset %d is inside the disk, want at least its size %d", sb.LogOffset, sb.DiskBytes)
	}
	for _, f := range []struct {
		name  string
		bytes int64
	}{{"spare offset", sb.SpareOffset}, {"spare size", sb.SpareBytes}, {"spare cap", sb.SpareCap}, {"state offset", sb.StateOffset}, {"device size", sb.DeviceBytes}} {
		if f.bytes < 0 || f.bytes > maxBytes {
			return fmt.Errorf("%s %d, want 0 to %d", f.name, f.bytes, int64(maxBytes))
		}
	}
	return nil
}

// validateTail checks where recovery is told to start.
func (sb *Superblock) validateTail() error {
	switch {
	case sb.Tail < 0 || sb.Tail > maxBytes || sb.Tail%tailAlign != 0:
		return fmt.Errorf("tail %d, want a multiple of %d", sb.Tail, tailAlign)
	case sb.DurableUpTo < sb.Tail || sb.DurableUpTo > sb.Tail+sb.LogBytes:
		return fmt.Errorf("durable up to %d, want from the tail %d to a log's length %d behind it",
			sb.DurableUpTo, sb.Tail, sb.LogBytes)
	}
	return nil
}

// fits checks the superblock against the device it was read from or goes to.
func (sb *Superblock) fits(placement Placement, deviceBytes int64) error {
	if sb.Placement != placement {
		return fmt.Errorf("placement is %s, but the slots were found as for %s", sb.Placement, placement)
	}
	if placement == Internal && sb.DeviceBytes != 0 && sb.DeviceBytes != deviceBytes {
		cause := ErrChanged
		if deviceBytes < sb.DeviceBytes {
			cause = ErrShrunk
		}
		return fmt.Errorf("%w: it has %d bytes, its journal was made for %d: restore its size of %d bytes before it is used",
			cause, deviceBytes, sb.DeviceBytes, sb.DeviceBytes)
	}
	limit := deviceBytes
	if placement == Internal {
		limit -= ReservedBytes
	}
	if end := sb.LogOffset + sb.LogBytes; end > limit {
		return fmt.Errorf("log ends at %d, but there is room up to %d only: the journal was truncated (device size %d)",
			end, limit, deviceBytes)
	}
	return nil
}

func (m Mode) valid() bool      { return m >= Data && m <= Auto }
func (s State) valid() bool     { return s >= Clean && s <= Closed }
func (p Placement) valid() bool { return p == Beside || p == Internal }

// encodableTime reports whether t is the zero time or fits the format: nanoseconds since
// 1970 in 63 bits, where 0 stands for "unknown".
func encodableTime(t time.Time) bool {
	if t.IsZero() {
		return true
	}
	return t.After(time.Unix(0, 0)) && !t.After(time.Unix(0, math.MaxInt64))
}
