// Package jsuper keeps a journal's superblock: the one place that says what the journal
// is, how it is laid out, and where recovery of its log begins.
//
// The superblock has two slots of 4 KiB. A save goes to the slot that does not hold the
// newest valid generation and is then flushed, so a crash in the middle of a save leaves
// the other slot as it was. The path of a save:
//
//  1. validate.go    Validate asserts the invariants of what is to be written.
//  2. format.go      encode lays the fields out and seals them with a CRC32C (FORMAT.md).
//  3. slots.go       SlotOffsets says where on the device the two slots are.
//  4. store.go       Store.Save writes one slot and flushes.
//
// And back:
//
//  5. slots.go       ReadSlots reads both slots and judges each one.
//  6. slots.go       choose takes the newest, or refuses: none, corrupt, too new.
//  7. fingerprint.go Fingerprint.Compare finds a backing that others have written to.
//
// What is assumed of the device is said in package disk. In particular a slot's write may
// be torn at 512 bytes; the CRC over the whole slot finds that.
package jsuper

import (
	"crypto/rand"
	"fmt"
	"time"
)

// Superblock is all that one slot says. Sizes and offsets are in bytes, positions count
// the log's bytes for ever, as in package wal.
type Superblock struct {
	// Generation counts saves. Store.Save sets it; 0 means "never saved".
	Generation uint64

	// Feature bits, in three classes, by what a program that does not know a bit may do:
	// Compat: anything. ROCompat: only read. Incompat: nothing.
	Compat, Incompat, ROCompat uint64

	DiskUUID  [16]byte // names the disk for ever; never all zero
	Node      uint32   // the cluster node that owns this journal; 0 until there are several
	Mode      Mode
	State     State
	Placement Placement

	// CreatedAt and UpdatedAt are the caller's; Save does not touch them. The zero time
	// means unknown. Nanoseconds are kept, the zone is not (UTC on return).
	CreatedAt, UpdatedAt time.Time

	DiskBytes    int64 // size of the served disk, at least 1
	LogOffset    int64 // where on the journal device the log's ring begins; a multiple of 4096
	LogBytes     int64 // length of the ring; a multiple of SegmentBytes
	SegmentBytes int64 // a power of two, at least 4096

	// The write-once side, on the journal device: where its stored state begins, which
	// generation of it goes with Tail, and the spare area. SpareCap is how much of that may
	// be used. All 0 on a disk that never was in mode ordered or auto.
	StateOffset                       int64
	StateGeneration                   uint64
	SpareOffset, SpareBytes, SpareCap int64

	// What the journal was made on and for: the size of its device, 0 if unknown, and which
	// file its backing is (disk.File.Identity), all zero if unknown. With Internal a device
	// of another size is refused: the slots would not be at its end.
	DeviceBytes int64
	BackingID   [16]byte

	// Incarnation tells the disk's histories apart: it changes when writes that were replied
	// to may have been lost, and only then. Random; 0 on a disk that no version which knows it
	// has opened. It goes with FeatureIncarnation. BootID is the run of the host's kernel
	// whose page cache holds what was written since the last flush; all zero if unknown, or if
	// that page cache may have lost some of it (Store.ForgetBoot).
	Incarnation uint64
	BootID      [16]byte

	// Where recovery starts: the first frame at or after Tail has sequence number TailSeq
	// and follows on epoch TailEpoch; everything below DurableUpTo was flushed.
	// Tail <= DurableUpTo <= Tail+LogBytes, and Tail is a multiple of 512.
	Tail        int64
	TailSeq     uint64
	TailEpoch   [16]byte
	DurableUpTo int64
	Epoch       [16]byte  // the log's current incarnation
	BarrierSeq  uint64    // the newest barrier known when this was saved; 0: none yet
	BarrierTime time.Time // when that barrier was made; zero: none yet
	Fingerprint Fingerprint
}

// Mode says which route writes take (DESIGN, section 5). Zero is no mode.
type Mode uint8

const (
	Data    Mode = 1 // every write goes through the log
	Ordered Mode = 2 // every write reaches the media once
	Auto    Mode = 3 // small writes as Data, bulk writes as Ordered
)

// State says how the last user left the disk. Zero is no state.
type State uint8

const (
	Clean  State = 1 // the log is fully checkpointed; homes may still be displaced
	Dirty  State = 2 // being served, or crashed: the log must be recovered
	Closed State = 3 // the backing is a plain raw image: nothing logged, nothing displaced
)

// Placement says where the journal lives. Zero is no placement.
type Placement uint8

const (
	Beside   Placement = 1 // a file or device of its own: slots at its first 8 KiB
	Internal Placement = 2 // the end of the backing itself: slots at its last 8 KiB
)

// FeatureIncarnation is the incompatible feature of a superblock that has an Incarnation.
const FeatureIncarnation uint64 = 1 << 0

// FeatureKeepSpare is the compatible feature of a disk whose spare area was written when the disk was
// made: the host gets none of its space back. A program that does not know it gives slots back that
// nobody uses.
const FeatureKeepSpare uint64 = 1 << 0

// Feature bits that this version knows. A format that needs a new one adds it here.
const (
	knownIncompat uint64 = FeatureIncarnation
	knownROCompat uint64 = 0
)

// NewIncarnation begins another history of the disk.
func (sb *Superblock) NewIncarnation() {
	var random [8]byte
	for sb.Incarnation = 0; sb.Incarnation == 0; sb.Incarnation = le.Uint64(random[:]) {
		rand.Read(random[:]) // never fails: crypto/rand aborts the program instead
	}
	sb.Incompat |= FeatureIncarnation
}

// NewUUID makes a random disk UUID (RFC 9562, version 4).
func NewUUID() [16]byte {
	var u [16]byte
	rand.Read(u[:]) // never fails: crypto/rand aborts the program instead
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// FormatUUID writes a UUID the usual way: 8-4-4-4-12 hex digits.
func FormatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// String is the mode as the command line spells it.
func (m Mode) String() string {
	switch m {
	case Data:
		return "data"
	case Ordered:
		return "ordered"
	case Auto:
		return "auto"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is String's inverse.
func ParseMode(s string) (Mode, error) {
	for m := Data; m <= Auto; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q is not known, want data, ordered or auto", s)
}

// String is the state in one word.
func (s State) String() string {
	switch s {
	case Clean:
		return "clean"
	case Dirty:
		return "dirty"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// String is the placement in one word.
func (p Placement) String() string {
	switch p {
	case Beside:
		return "beside"
	case Internal:
		return "internal"
	}
	return fmt.Sprintf("placement(%d)", uint8(p))
}
