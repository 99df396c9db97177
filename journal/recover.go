package journal

import (
	"errors"
	"fmt"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// From a superblock and a log to a disk that serves (P6):
//
//  1. Load the superblock; refuse what is not ours, not whole, not to be understood (P10).
//  2. Scan the log from its tail. Each record becomes an extent of the overlay, the newest
//     owner of a block wins: that is the whole replay. Nothing is written.
//  3. Compare the backing with its fingerprint, but for blocks that the log covers.
//  4. Make the disk dirty in the superblock, begin a new epoch in the log, and note it in
//     the superblock: what the scan kept is durable and stays, what it dropped can never
//     come back, and a log that isn't this one can't pass for it.
//  5. Serve. The checkpointer brings home behind, as on any other day.
//
// A crash anywhere in here repeats it and finds the same: homes are not touched, and the
// log only grows by its start frame.

// defaultMemory is Options.Memory's default.
const defaultMemory = 256 << 20

// Open recovers a disk and returns it ready to serve. Errors name what was found and where;
// they wrap jsuper's and wal's sentinels, and ErrBackingChanged, ErrForeign,
// ErrModeUnsupported. After an error nothing has been changed that matters.
func Open(p Parts, opt Options) (*Disk, error) {
	began := time.Now()
	backing := p.Backing
	p = p.guarded()
	store := jsuper.NewStore(p.Journal, p.Placement)
	super, err := loadSuper(p, store, opt.ReadOnly)
	if err != nil {
		return nil, err
	}
	d, err := newDisk(p, backing, store, super, opt)
	if err != nil {
		return nil, err
	}
	scan, err := d.replay(opt.Recover, false, false)
	if err != nil {
		return nil, err
	}
	if err := d.checkBacking(opt.AcceptBacking); err != nil {
		return nil, err
	}
	if !opt.ReadOnly {
		if err := d.takeOver(scan); err != nil {
			return nil, err
		}
	}
	_, bytes := d.overlay.size()
	d.recovery = Recovery{
		State: super.State, Frames: scan.Frames, Records: scan.Records, Bytes: bytes,
		DroppedFrames: scan.Dropped.Frames, DroppedBytes: scan.Dropped.Bytes,
		CutSeq: scan.NextSeq, Barrier: scan.Barrier, Took: time.Since(began),
	}
	if !opt.ReadOnly {
		d.start(opt)
	}
	return d, nil
}

// guarded is p with flushes that agree: superblock and log share a device, and with an
// internal journal the homes do as well.
func (p Parts) guarded() Parts {
	same := p.Journal == p.Backing
	p.Backing = disk.FailStop(p.Backing)
	if same {
		p.Journal = p.Backing
		return p
	}
	p.Journal = disk.FailStop(p.Journal)
	return p
}

// loadSuper is step 1. A reader must not need what only a writer needs.
func loadSuper(p Parts, store *jsuper.Store, readOnly bool) (*jsuper.Superblock, error) {
	var super *jsuper.Superblock
	var err error
	if readOnly {
		super, err = jsuper.Probe(p.Journal, p.Placement)
	} else {
		super, err = store.Load()
	}
	if err != nil {
		return nil, err
	}
	if have := p.Backing.Size(); have < super.DiskBytes {
		return nil, fmt.Errorf("backing has %d bytes, the disk %d: %w: restore its full length before the disk is used", have, super.DiskBytes, jsuper.ErrShrunk)
	}
	return super, nil
}

// newDisk builds a disk that can be read through its overlay, and does nothing yet.
func newDisk(p Parts, backing disk.Device, store *jsuper.Store, super *jsuper.Superblock, opt Options) (*Disk, error) {
	routes, err := newRoutes(super.Mode)
	if err != nil {
		return nil, err
	}
	memory := opt.Memory
	if memory <= 0 {
		memory = defaultMemory
	}
	return &Disk{
		home:       disk.Region(p.Backing, 0, super.DiskBytes),
		backing:    backing,
		ring:       disk.Region(p.Journal, super.LogOffset, super.LogBytes),
		store:      store,
		size:       super.DiskBytes,
		readOnly:   opt.ReadOnly,
		routes:     routes,
		onPoison:   opt.OnPoison,
		maxExtents: int(max(memory/2/extentBytes, walkChunk)),
		opened:     *super,
		gate:       newGate(),
		super:      *super,
		space:      newBroadcast(),
		kick:       make(chan struct{}, 1),
		stopped:    make(chan struct{}),
	}, nil
}

// replay is step 2.
func (d *Disk) replay(cut wal.Cut, verifyAll, direct bool) (*wal.ScanResult, error) {
	sb := &d.super
	opt := wal.ScanOptions{
		Start:     wal.Start{Tail: sb.Tail, TailSeq: sb.TailSeq, Epoch: sb.TailEpoch, DurableUpTo: sb.DurableUpTo},
		Cut:       cut,
		VerifyAll: verifyAll,
		Direct:    direct,
	}
	var found []extent
	scan, err := wal.Scan(d.ring, opt, func(f *wal.Frame) error {
		if f.Kind != wal.KindRecords {
			return nil
		}
		for i := range f.Records {
			e, err := extentOf(&f.Records[i], d.size)
			if err != nil {
				return fmt.Errorf("frame at %d (seq %d): %w", f.Pos, f.Seq, err)
			}
			found = append(found, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("replay the log: %w", err)
	}
	d.overlay.load(found)
	return scan, nil
}

// checkBacking is step 3: P10's "disk changed behind our back", as far as samples tell.
// After Closed the backing was anyone's to write.
func (d *Disk) checkBacking(accept bool) error {
	if accept || d.super.State == jsuper.Closed {
		return nil
	}
	err := d.super.Fingerprint.Compare(d.home, func(off, n int64) bool { return d.overlay.covers(off, off+n) })
	if errors.Is(err, jsuper.ErrChanged) {
		return fmt.Errorf("%w: %w", ErrBackingChanged, err)
	}
	if err != nil {
		return err
	}
	if d.super.State == jsuper.Clean && d.super.Fingerprint.ModTimeNs != 0 {
		if now := modTime(d.backing); now != 0 && now != d.super.Fingerprint.ModTimeNs {
			return fmt.Errorf("%w: it was modified at %s, jnbd last wrote it at %s", ErrBackingChanged,
				time.Unix(0, now).UTC().Format(time.RFC3339Nano), time.Unix(0, d.super.Fingerprint.ModTimeNs).UTC().Format(time.RFC3339Nano))
		}
	}
	return nil
}

// takeOver is step 4.
func (d *Disk) takeOver(scan *wal.ScanResult) error {
	if d.super.State != jsuper.Dirty {
		d.super.State = jsuper.Dirty
		d.super.UpdatedAt = time.Now()
		if d.overlay.tree.Len() == 0 {
			// Accepted or closed before: this is what the homes hold from now on.
			if err := d.fingerprint(); err != nil {
				return err
			}
		}
		if err := d.store.Save(&d.super); err != nil {
			return fmt.Errorf("superblock: %w", err)
		}
	}
	log, err := wal.Continue(d.ring, scan, wal.Options{Node: d.super.Node})
	if err != nil {
		return err
	}
	d.log = log
	st := log.Stats()
	d.super.Epoch, d.super.DurableUpTo = st.Epoch, st.DurableUpTo
	d.super.BarrierSeq, d.super.BarrierTime = st.Barrier.Seq, st.Barrier.Time
	if err := d.store.Save(&d.super); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	d.maxPayload = log.MaxRecordPayload()
	d.maxRequest = log.MaxAppendBytes()
	d.logRoom = st.Free + st.Head - st.Tail
	d.batchBytes = max(d.super.LogBytes/8, d.super.SegmentBytes)
	return nil
}

// fingerprint takes the backing's fingerprint again.
func (d *Disk) fingerprint() error {
	if err := d.super.Fingerprint.Update(d.home); err != nil {
		return fmt.Errorf("fingerprint of the backing: %w", err)
	}
	return nil
}

// modTime is when an image file was last modified, in ns since 1970, or 0 where that means
// nothing: the time of a block device is its node's.
func modTime(dev disk.Device) int64 {
	f, ok := dev.(interface {
		ModTime() (time.Time, error)
		BlockDevice() bool
	})
	if !ok || f.BlockDevice() {
		return 0
	}
	t, err := f.ModTime()
	if err != nil || t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
