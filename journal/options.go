package journal

import (
	"errors"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// Parts are the devices that a disk stands on.
type Parts struct {
	// Backing holds the homes: home(v) is offset v.
	Backing disk.Device
	// Journal holds superblock and log. With jsuper.Internal it is Backing itself.
	Journal disk.Device
	// Placement says where on Journal the superblock's slots are.
	Placement jsuper.Placement
}

// FormatOptions shape a new disk.
type FormatOptions struct {
	DiskBytes    int64       // size of the served disk; at least 1, at most the backing's
	JournalBytes int64       // superblock and log together, see MinJournalBytes
	Mode         jsuper.Mode // kept in the superblock
	// SpareBytes is the room for write-once versions whose homes are taken, on the journal,
	// allocated as it is used. 0 is the mode's default: as much as the disk for auto, an
	// eighth more for ordered. Mode data has none.
	SpareBytes int64
	// WriteSpare writes zeros over the whole spare area, and keeps its space for good: a medium is
	// slower where it was never written. It costs the time and the space of SpareBytes, and means nothing for
	// mode data.
	WriteSpare bool
	Node       uint32 // cluster seam; 0 until many journals share a disk
	Progress   func(done, total int64)
}

// Options say how an existing disk is opened. The zero value is usable.
type Options struct {
	// Recover is where the log is cut after a crash: wal.CutPrefix (all that is whole and in
	// order) or wal.CutBarrier (at the last barrier).
	Recover wal.Cut
	// CommitInterval makes a barrier when that long has passed with unflushed changes.
	// 0 means never: only FLUSH, FUA, checkpoints and close make barriers.
	CommitInterval time.Duration
	// UnflushedBulk is how much may be written once since the last flush before one begins by
	// itself: a recovery has to checksum it all. Default wal.DefaultSoftFlushBeside.
	UnflushedBulk int64
	// Memory bounds what the overlay may hold, in bytes. Default 256 MiB.
	Memory int64
	// ReadOnly opens without a single write: what the log holds is served, and left there.
	ReadOnly bool
	// Mode changes the disk's mode, for good; 0 leaves it. The first change from data to
	// another brings everything logged home and makes room for spare slots on the journal.
	Mode jsuper.Mode
	// Grow makes the disk larger, to so many bytes, for good; 0 leaves it. It needs a journal
	// beside the backing. A backing that is a file is made longer; another one must be long
	// enough already. ErrShrink, ErrGrowInternal.
	Grow int64
	// AcceptBacking takes a backing that something else has written to since the last use.
	AcceptBacking bool
	// BootID is the run of the host's kernel whose page cache holds what this process writes.
	// The next Open takes a disk that was not closed for whole if it is still the same. All
	// zero means unknown: then it never is.
	BootID [16]byte
	// OnPoison is called once, from the goroutine that met the failure, when the disk stops
	// accepting writes (P9).
	OnPoison func(error)
	// OnHostFull is called when a checkpoint stops because the host has no space for it, with
	// the cause, and with nil when one has ended well again. It must not block.
	OnHostFull func(error)
	// OnFlush is told after each flush of the log that has succeeded how long the devices
	// took for it. It is called from whoever leads the flush, and must not block.
	OnFlush func(took time.Duration)
}

// MinJournalBytes is the least that makes sense for a served disk, superblock and log
// together: a request of nbd's largest size, 32 MiB, must fit into the log at once (P4).
// Format itself takes less, for disks whose largest request is smaller.
const MinJournalBytes = 64 << 20

// dropError is an error that tells by shape what it is.
type dropError string

func (e dropError) Error() string { return string(e) }

// Dropped is true: the change never happened, because admit refused it.
func (dropError) Dropped() bool { return true }

// The five refusals of P10 are wal.ErrCorrupt, wal.ErrTooNew and jsuper's own, and these.
var (
	// ErrBackingChanged: the backing is not as this journal left it.
	ErrBackingChanged = errors.New("backing changed behind the journal")
	// ErrForeign: journal and backing do not belong together.
	ErrForeign = errors.New("journal belongs to another disk")
	// ErrPoisoned: a write or flush of journal or backing failed; restart to recover.
	ErrPoisoned = errors.New("disk is poisoned by an earlier i/o error")
	// ErrIncarnationStays: a disk was poisoned, and its superblock may not say so. A client that
	// was cut off would not notice if writes that were replied to are gone.
	ErrIncarnationStays = errors.New("the superblock may not tell clients that writes are lost: detach them before jnbd is started again")
	// ErrClosed: the disk is closed or closing.
	ErrClosed = errors.New("disk is closed")
	// ErrReadOnly: a change to a disk that was opened read-only.
	ErrReadOnly = errors.New("disk is open read-only")
	// ErrModeUnsupported: this version can't serve the mode in the superblock.
	ErrModeUnsupported = errors.New("mode not supported by this version")
	// ErrDropped: admit refused the change; it never happened. A protocol server knows it by
	// its method Dropped.
	ErrDropped error = dropError("change dropped: its connection is gone")
	// ErrTooBig: a single request is larger than the log can ever hold.
	ErrTooBig = errors.New("request larger than the journal can hold")
)
