package journal

import (
	"sync/atomic"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// counters count since Open.
type counters struct {
	clientBytes atomic.Uint64
	homeBytes   atomic.Uint64
	checkpoints atomic.Uint64
}

// Stats is a disk at one moment. Counters count since Open.
type Stats struct {
	Mode        jsuper.Mode
	UUID        [16]byte
	DiskBytes   int64
	LogBytes    int64
	Tail, Head  int64 // log positions of the oldest and behind the newest live byte
	MovingTo    int64 // the tail that a checkpoint is making; 0 if none is
	DurableUpTo int64
	Epoch       [16]byte
	NextSeq     uint64
	BarrierSeq  uint64 // of the last durable barrier
	BarrierTime time.Time

	OverlayExtents int   // ranges whose newest version is not home
	OverlayBytes   int64 // bytes in them

	// Of the write-once side; 0 without one.
	DisplacedBytes  int64 // in spare slots
	DisplacedBlocks int64 // the same, in blocks of 4 KiB
	SpareBytes      int64 // the spare area
	SpareUsedBytes  int64 // of it in use, also by what waits for a barrier

	ClientBytes  uint64 // written by clients
	LoggedBytes  uint64 // written to the log for them, frames and all
	HomeBytes    uint64 // written home by checkpoints and homing
	InPlaceBytes uint64 // written once, to empty homes
	ToSpareBytes uint64 // written once, to spare slots
	StateBytes   uint64 // written for the stored write-once state and the superblock
	Flushes      uint64 // of the log
	Checkpoints  uint64 // batches
	Poisoned     error
	HostFull     error // why the last checkpoint stopped, if the host had no space for it

	// OldestChange is when the oldest change was made that a checkpoint has not brought home,
	// to about a second; zero if there is none. What recovery found counts from Open.
	OldestChange time.Time
}

// LogUsedBytes is how much of the log is live.
func (s Stats) LogUsedBytes() int64 { return s.Head - s.Tail }

// HostBytes is all that was written to the host since Open.
func (s Stats) HostBytes() uint64 {
	return s.LoggedBytes + s.HomeBytes + s.InPlaceBytes + s.ToSpareBytes + s.StateBytes
}

// WriteAmplification is bytes written to the host for each byte from clients (P5), since
// Open; 0 before the first. What is logged now and goes home later counts only then.
func (s Stats) WriteAmplification() float64 {
	if s.ClientBytes == 0 {
		return 0
	}
	return float64(s.HostBytes()) / float64(s.ClientBytes)
}

// countedWrites is a device that counts the bytes written to it.
type countedWrites struct {
	disk.Device
	bytes atomic.Uint64
}

func (c *countedWrites) WriteAt(p []byte, off int64) (int, error) {
	c.bytes.Add(uint64(len(p)))
	return c.Device.WriteAt(p, off)
}

// Recovery is what Open found.
type Recovery struct {
	State         jsuper.State // as the last user left it
	Frames        int          // kept from the log
	Records       int
	Bytes         int64 // not home yet, and served from the log
	DroppedFrames int   // beyond the cut
	DroppedBytes  int64
	CutSeq        uint64    // sequence number of the first frame after the cut
	Barrier       wal.Point // the last one kept
	Took          time.Duration
}

// Barriers are log positions of durable barriers, oldest first: the last one, and of those
// before it some in each segment that is live. Like Stats it waits for nothing.
func (d *Disk) Barriers() []int64 {
	if d.log == nil {
		return nil
	}
	var positions []int64
	for _, p := range d.log.Barriers() {
		positions = append(positions, p.Pos)
	}
	return positions
}

// Recovery is what Open found.
func (d *Disk) Recovery() Recovery { return d.recovery }

// Stats is the disk at this moment. It waits for nothing, also not for a backing that hangs.
func (d *Disk) Stats() Stats {
	sb := d.opened
	s := Stats{
		Mode:        sb.Mode,
		UUID:        sb.DiskUUID,
		DiskBytes:   d.size,
		LogBytes:    sb.LogBytes,
		Tail:        sb.Tail,
		Head:        sb.Tail,
		DurableUpTo: sb.DurableUpTo,
		Epoch:       sb.Epoch,
		BarrierSeq:  sb.BarrierSeq,
		BarrierTime: sb.BarrierTime,
	}
	if d.log != nil {
		st := d.log.Stats()
		s.Tail, s.Head, s.DurableUpTo = st.Tail, st.Head, st.DurableUpTo
		s.Epoch, s.NextSeq = st.Epoch, st.NextSeq
		s.BarrierSeq, s.BarrierTime = st.Barrier.Seq, st.Barrier.Time
		s.LoggedBytes, s.Flushes = st.AppendedBytes, st.Flushes
	}
	s.MovingTo = d.movingTo.Load()
	s.OldestChange = d.lag.oldest(s.Tail)
	s.OverlayExtents, s.OverlayBytes = d.overlay.size()
	s.ClientBytes = d.counters.clientBytes.Load()
	if d.once != nil {
		o := d.once.state.Stats()
		s.DisplacedBlocks = o.Displaced
		s.DisplacedBytes, s.SpareBytes, s.SpareUsedBytes = d.onceBytes()
		s.InPlaceBytes, s.ToSpareBytes = d.once.homeBytes.Load(), d.once.spareBytes.Load()
	}
	s.HomeBytes = d.counters.homeBytes.Load()
	s.StateBytes = d.store.WrittenBytes()
	if d.once != nil {
		s.StateBytes += d.once.store.bytes.Load()
	}
	s.Checkpoints = d.counters.checkpoints.Load()
	s.Poisoned, s.HostFull = d.Err(), d.HostFull()
	return s
}

// onceBytes is how much is displaced, how large the spare area is, and how much of it is in use.
func (d *Disk) onceBytes() (displaced, spare, used int64) {
	if d.once == nil {
		return 0, 0, 0
	}
	st := d.once.state.Stats()
	spare = d.opened.SpareBytes
	return st.Displaced * blockBytes, spare, spare - st.SpareFree*blockBytes
}
