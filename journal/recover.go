package journal

import (
	"errors"
	"fmt"
	"slices"
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
// ErrModeUnsupported. After an error nothing has been changed that matters, but that a write or
// flush that failed ends the incarnation; ErrIncarnationStays: it may not have done so.
func Open(p Parts, opt Options) (*Disk, error) {
	began := time.Now()
	if opt.ReadOnly && opt.Mode != 0 {
		return nil, fmt.Errorf("change of mode: %w", ErrReadOnly)
	}
	if opt.ReadOnly && opt.Grow != 0 {
		return nil, fmt.Errorf("change of size: %w", ErrReadOnly)
	}
	given := p
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
	scan, err := d.replay(p, opt.Recover, false, false)
	if err != nil {
		return nil, err
	}
	if err := d.checkBacking(opt.AcceptBacking); err != nil {
		return nil, err
	}
	if err := d.settleIncarnation(scan, opt); err != nil {
		return nil, err
	}
	if !opt.ReadOnly {
		if err := d.takeOver(scan); err != nil {
			return nil, d.giveUp(err)
		}
	}
	if opt.Mode != 0 && opt.Mode != super.Mode {
		again, err := d.changeMode(given, opt.Mode)
		if err != nil {
			return nil, d.giveUp(fmt.Errorf("change mode from %s to %s: %w", super.Mode, opt.Mode, err))
		}
		if again {
			return Open(given, opt)
		}
	}
	if opt.Grow != 0 && opt.Grow != super.DiskBytes {
		if err := d.grow(given, opt.Grow); err != nil {
			return nil, d.giveUp(fmt.Errorf("change size from %d to %d bytes: %w", super.DiskBytes, opt.Grow, err))
		}
		opt.Grow = 0
		return Open(given, opt)
	}
	_, bytes := d.overlay.size()
	d.recovery = Recovery{
		State: super.State, Frames: scan.Frames, Records: scan.Records, Bytes: bytes,
		DroppedFrames: scan.Dropped.Frames, DroppedBytes: scan.Dropped.Bytes,
		CutSeq: scan.NextSeq, Barrier: scan.Barrier, Took: time.Since(began),
	}
	if !opt.ReadOnly {
		if bytes > 0 {
			d.lag.changed(d.log.Stats().Head-1, time.Now())
		}
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
	ring := disk.Region(p.Journal, super.LogOffset, super.LogBytes)
	payloads, err := wal.NewReader(ring)
	if err != nil {
		return nil, err
	}
	if super.Mode != jsuper.Data && super.StateOffset == 0 {
		return nil, fmt.Errorf("mode %s: the journal has no write-once side: %w", super.Mode, jsuper.ErrCorrupt)
	}
	d := &Disk{
		home:          disk.Region(p.Backing, 0, super.DiskBytes),
		backing:       backing,
		guarded:       p,
		ring:          ring,
		payloads:      payloads,
		store:         store,
		size:          super.DiskBytes,
		readOnly:      opt.ReadOnly,
		routes:        routes,
		onPoison:      opt.OnPoison,
		onFlush:       opt.OnFlush,
		unflushedBulk: opt.UnflushedBulk,
		onHostFull:    opt.OnHostFull,
		opened:        *super,
		gate:          newGate(),
		ending:        ending{done: make(chan struct{})},
		super:         *super,
		space:         newBroadcast(),
		kick:          make(chan struct{}, 1),
		stopped:       make(chan struct{}),
	}
	d.SetMemory(opt.Memory)
	return d, nil
}

// SetMemory changes Options.Memory. If there is less now than is in use, writers wait until
// checkpoints have made room.
func (d *Disk) SetMemory(bytes int64) {
	if bytes <= 0 {
		bytes = defaultMemory
	}
	d.maxExtents.Store(max(bytes/2/extentBytes, walkChunk))
}

// replay is step 2. With a write-once side it takes two walks over the log: what was written
// once behind the last point known to be durable must be there, and if it is not, the log
// ends before the record that speaks of it. The first walk leaves out what is proven.
func (d *Disk) replay(p Parts, cut wal.Cut, verifyAll, direct bool) (*wal.ScanResult, error) {
	sb := &d.super
	opt := wal.ScanOptions{
		Start:     wal.Start{Tail: sb.Tail, TailSeq: sb.TailSeq, Epoch: sb.TailEpoch, DurableUpTo: sb.DurableUpTo},
		Cut:       cut,
		VerifyAll: verifyAll,
		Direct:    direct,
	}
	var err error
	if d.once, err = loadOnce(p, sb); err != nil {
		return nil, err
	}
	if d.once == nil {
		return d.replayLog(opt)
	}
	if sb.State == jsuper.Closed {
		// Since then the backing was anyone's: what it has allocated is what it holds. The
		// close left no byte in an absent home, so none can come back.
		if err := presentFrom(d.once.state, d.home, 0); err != nil {
			return nil, fmt.Errorf("look for what the backing holds: %w", err)
		}
	}
	for {
		lost, err := d.findLost(opt)
		if err != nil {
			return nil, fmt.Errorf("replay the log: %w", err)
		}
		if lost == 0 {
			break
		}
		opt.Stop = lost
	}
	return d.replayLog(opt)
}

// replayLog makes the log's changes: to the bases one by one, to the overlay in large parts, by a
// second thread, while the next part is read.
func (d *Disk) replayLog(opt wal.ScanOptions) (*wal.ScanResult, error) {
	load := newLoader(&d.overlay)
	scan, err := d.scan(opt, func(e *extent) error {
		load.changes = d.ownerChanges(load.changes, e)
		load.perhapsPass()
		d.changeBases(e)
		if d.once != nil && e.state != logged && e.state != zeroKept {
			d.touched.put(*e)
		}
		return nil
	})
	load.finish()
	if err != nil {
		return nil, fmt.Errorf("replay the log: %w", err)
	}
	if d.once != nil {
		err = d.once.state.FinishReplay()
	}
	return scan, err
}

// scan visits every record that the scan keeps, as what it means.
func (d *Disk) scan(opt wal.ScanOptions, visit func(*extent) error) (*wal.ScanResult, error) {
	return wal.Scan(d.ring, opt, func(f *wal.Frame) error {
		for i := range f.Records {
			e, err := extentOf(&f.Records[i], d.size)
			if err == nil {
				e.frame, e.proves = f.Pos, f.DurableUpTo
				err = visit(&e)
			}
			if err != nil {
				return fmt.Errorf("frame at %d (seq %d): %w", f.Pos, f.Seq, err)
			}
		}
		return nil
	})
}

// findLost is the position of the first frame that speaks of bytes written once which are
// not there, or 0. What lies below the durable mark was flushed, and may have been replaced
// since; what lies behind it is little, because the log flushes itself.
func (d *Disk) findLost(opt wal.ScanOptions) (int64, error) {
	d.unproven = nil
	opt.SkipProven = true
	keep := walkChunk
	proven := func(durable int64) {
		d.unproven = slices.DeleteFunc(d.unproven, func(e extent) bool { return e.frame < durable })
	}
	scan, err := d.scan(opt, func(e *extent) error {
		if e.state != mappedHome && e.state != mappedSpare {
			return nil
		}
		if d.unproven = append(d.unproven, *e); len(d.unproven) > keep {
			proven(e.proves)
			keep = 2*len(d.unproven) + walkChunk
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	proven(scan.DurableUpTo)
	for i := range d.unproven {
		err := d.verifyBase(&d.unproven[i])
		if errors.Is(err, wal.ErrCorrupt) {
			return d.unproven[i].frame, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// takeOver is step 4.
func (d *Disk) takeOver(scan *wal.ScanResult) error {
	found := d.super.State
	if d.once != nil && (found == jsuper.Closed || (found == jsuper.Clean && d.accepted)) {
		if err := d.storeFound(); err != nil {
			return err
		}
	}
	if found != jsuper.Dirty {
		// This is what the homes hold from now on.
		if err := d.saveDirty(); err != nil {
			return err
		}
	}
	logOpt := wal.Options{
		Node:            d.super.Node,
		SoftFlushBeside: d.unflushedBulk,
		OnFlush:         d.onFlush,
		// A flush that nobody waits for may be what fails: reads must know at once.
		OnFail: func(err error) { d.poisonWith(fmt.Errorf("log: %w", err)) },
	}
	if d.once != nil && !d.once.together {
		logOpt.FlushBeside = d.flushBeside
	}
	if err := d.makeDurable(); err != nil {
		return err
	}
	log, err := wal.Continue(d.ring, scan, logOpt)
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
	d.superDurable.Store(d.super.DurableUpTo)
	if d.once != nil {
		d.once.generation = d.super.StateGeneration
		d.once.state.Committed(d.super.StateGeneration)
	}
	if found == jsuper.Dirty && d.accepted {
		if err := d.storeAccepted(); err != nil {
			return err
		}
	}
	d.maxPayload = log.MaxRecordPayload()
	d.maxRequest = log.MaxAppendBytes()
	d.logRoom = st.Free + st.Head - st.Tail
	d.batchBytes = max(d.super.LogBytes/8, d.super.SegmentBytes)
	return nil
}

// giveUp ends an Open that fails with err after it may have written. Once the log goes on, all
// that was replied to is durable; before, what recovery wrote again is at stake, as in a poison.
func (d *Disk) giveUp(err error) error {
	if d.log != nil {
		err = errors.Join(err, d.log.Close())
	}
	if d.poison.Load() != nil || d.log == nil && d.recoveryMayHaveLost(err) {
		d.endIncarnation(err)
		<-d.ending.done
		err = errors.Join(err, d.ending.err)
	}
	return err
}

// saveDirty notes in the superblock that the disk is in use, and what the homes hold. What the
// log covers is not compared, whatever the fingerprint says of it.
func (d *Disk) saveDirty() (err error) {
	d.super.State = jsuper.Dirty
	d.super.UpdatedAt = time.Now()
	if err := d.fingerprint(); err != nil {
		return err
	}
	if d.super.BackingID, err = identity(d.backing); err != nil {
		return err
	}
	if err := d.store.Save(&d.super); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	return nil
}

// storeFound stores what the backing was found to hold, after a close or because it was accepted,
// under a superblock that still says so: until the next one says otherwise, it can be found
// again. The log is empty then.
func (d *Disk) storeFound() error {
	if err := d.store.Save(&d.super); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	d.once.state.Committed(d.super.StateGeneration)
	generation := d.super.StateGeneration + 1
	if err := d.once.state.Save(d.once.store, generation); err != nil {
		return err
	}
	if err := d.once.store.Flush(); err != nil {
		return fmt.Errorf("flush the write-once state: %w", err)
	}
	d.super.StateGeneration = generation
	return nil
}

// makeDurable flushes what was written once in place and found by its checksum: it may be in
// the page cache only. Where a flush of it failed before, the kernel takes its pages for
// clean; so they are written again (decision 4).
func (d *Disk) makeDurable() error {
	if d.once == nil {
		return nil
	}
	for i := range d.unproven {
		e := &d.unproven[i]
		err := d.readBase(e, func(p []byte, dev disk.Device, off int64) error {
			if _, err := dev.WriteAt(p, off); err != nil {
				return fmt.Errorf("write again what was written once at %d: %w", e.off, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.unproven = nil
	if err := d.home.Flush(); err != nil {
		return fmt.Errorf("flush the backing: %w", err)
	}
	return nil
}

// fingerprint takes the backing's fingerprint again.
func (d *Disk) fingerprint() error {
	if err := d.super.Fingerprint.Update(d.home); err != nil {
		return fmt.Errorf("fingerprint of the backing: %w", err)
	}
	return nil
}
