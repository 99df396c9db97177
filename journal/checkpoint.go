package journal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"jnbd/disk"
	"jnbd/ordered"
	"jnbd/wal"
)

// A checkpoint moves the tail, batch by batch:
//
//  1. Choose the new tail: behind a durable barrier, never beyond what the overlay knows. If
//     no barrier lies far enough, make one.
//  2. Bring home, in address order, every extent whose frame lies before the new tail. What
//     was written again since has a newer owner and is passed over: it goes home once.
//  3. Flush the backing.
//  4. Forget those extents; reads find them home from now on. Wait for the readers that
//     found them in the log.
//  5. Make a barrier behind the newer versions that were passed over, and store the new tail in
//     the superblock, durably.
//  6. Free the log space (I6: homes, superblock, reuse, in this order).
//
// With a write-once side, step 2 takes each home from direct writes first (Steal), step 4
// makes those homes the bases of their blocks, and step 5 stores the bases before that barrier and
// the superblock that names them. Places that durable changes gave up become usable again.
//
// A batch that is made because the disk is idle may be given up in step 2, when a client comes back: until
// then only homes were written, with what the log holds (decision 27).
//
// Only durable records go home (step 1), so a crash at any point leaves homes that replay
// of [old tail, …) makes right again, and a cut at a barrier never cuts off what is home.
// d.checkpointMu makes this the only writer of homes and superblock.

// homeRun is how much goes home in one write at most.
const homeRun = 1 << 20

// checkpointLoop runs batches as the fill of the log asks for, and brings everything home while nobody
// changes the disk. Close ends it.
func (d *Disk) checkpointLoop() {
	defer d.background.Done()
	defer stepBack()()
	tick := time.NewTicker(idleCheck)
	defer tick.Stop()
	for {
		idle := false
		select {
		case <-d.stopped:
			return
		case <-d.kick:
			if d.HostFull() != nil {
				continue // the next tick tries again
			}
		case <-tick.C:
			idle = d.idle()
		}
		if d.once != nil && d.sweep(idle) != nil {
			return // poisoned: told to every caller, nothing left to do here
		}
		if idle {
			if d.checkpointIdle() != nil {
				return
			}
			continue
		}
		must := d.starving.Swap(false)
		for running := d.fill() >= checkpointFrom; must || running; running = d.fill() > checkpointTo {
			moved, err := d.checkpointBatch(d.step(), nil)
			if errors.Is(err, ErrHostFull) {
				d.starving.Store(true) // the next tick tries again, however full the log is
				break
			}
			if err != nil {
				return
			}
			if !moved || d.closing.Load() {
				break
			}
			must = false
		}
	}
}

// checkpointIdle brings home what is in the log, in batches as small as homing's.
func (d *Disk) checkpointIdle() error {
	return d.whileIdle(func(changed func() bool) (bool, error) {
		moved, err := d.checkpointBatch(min(d.step(), max(idleBatch, d.opened.SegmentBytes)), changed)
		if errors.Is(err, ErrHostFull) {
			d.starving.Store(true)
			return false, nil
		}
		return moved, err
	})
}

// step is how much of the log a batch should free. As long as the host is full it is the least
// there is: it costs little to fail with, and fits soonest.
func (d *Disk) step() int64 {
	if d.HostFull() != nil {
		return d.opened.SegmentBytes
	}
	return d.batchBytes
}

// Checkpoint brings home everything that was changed before the call, unless ctx ends first.
// ErrHostFull: some of it is still in the log.
// progress, if not nil, gets bytes of log done and in all.
func (d *Disk) Checkpoint(ctx context.Context, progress func(done, total int64)) error {
	d.appendMu.Lock()
	goal := d.log.Stats().Head
	d.appendMu.Unlock()
	start := d.log.Stats().Tail
	step := d.batchBytes
	if d.closing.Load() {
		step = d.opened.SegmentBytes
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("checkpoint: %d bytes of log left: %w", goal-d.log.Stats().Tail, err)
		}
		began := time.Now()
		moved, err := d.checkpointBatch(step, nil)
		if err != nil {
			return err
		}
		step = d.nextStep(step, time.Since(began))
		tail := d.log.Stats().Tail
		if progress != nil {
			progress(min(tail, goal)-start, goal-start)
		}
		if tail >= goal || !moved {
			return nil
		}
	}
}

// closeStepTime is how long a batch should take once the disk is closing, so that a limit of
// time is kept whatever the backing's speed.
const closeStepTime = 250 * time.Millisecond

// nextStep is the size of the batch after one of step bytes that took so long. When the disk
// is closing they begin small, and grow as the backing allows: each one has its flushes.
func (d *Disk) nextStep(step int64, took time.Duration) int64 {
	switch {
	case !d.closing.Load():
		return d.batchBytes
	case took < closeStepTime/2:
		return min(2*step, d.batchBytes)
	case took > closeStepTime:
		return max(step/2, d.opened.SegmentBytes)
	}
	return step
}

// errGivenUp is moveTail's word for a batch that was stopped on its way.
var errGivenUp = errors.New("the checkpoint gives way to a client")

// checkpointBatch moves the tail by about most bytes; moved is false when all is home, or when stop,
// where given, says on the way home that it should not. What was written home by then counts for
// nothing, and goes home again. An error other than ErrHostFull has poisoned the disk.
func (d *Disk) checkpointBatch(most int64, stop func() bool) (moved bool, err error) {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	if d.poison.Load() != nil {
		return false, d.poisoned()
	}
	began := time.Now()
	old := d.log.Stats().Tail
	tail, err := d.nextTail(old, most)
	if err != nil {
		return false, d.poisonWith(fmt.Errorf("checkpoint: %w", err))
	}
	if tail <= old {
		return false, nil
	}
	d.movingTo.Store(tail)
	defer d.movingTo.Store(0)
	err = d.moveTail(tail, stop)
	if errors.Is(err, errGivenUp) {
		return false, nil
	}
	if errors.Is(err, ErrHostFull) {
		d.hostIsFull(err)
		return false, fmt.Errorf("checkpoint to log position %d: %w", tail, err)
	}
	if err != nil {
		return false, d.poisonWith(fmt.Errorf("checkpoint to log position %d: %w", tail, err))
	}
	if err := d.tidy(); err != nil {
		return false, d.poisonWith(fmt.Errorf("checkpoint: %w", err))
	}
	d.pace.drained(tail-old, time.Since(began))
	d.counters.checkpoints.Add(1)
	d.hostHasRoom()
	d.space.send()
	return true, nil
}

// nextTail is step 1.
func (d *Disk) nextTail(old, most int64) (int64, error) {
	known := d.known()
	tail := d.log.TailBefore(min(known, old+most))
	if tail-old >= most/2 || tail >= known {
		return tail, nil
	}
	// The last durable barrier is not far enough. One more makes all of it legal.
	if _, err := d.log.Flush(); err != nil {
		return 0, fmt.Errorf("flush the log: %w", err)
	}
	return d.log.TailBefore(min(d.known(), old+most)), nil
}

// known is the log position up to which the overlay holds every record. An append that is
// under way holds appendMu until the overlay knows it.
func (d *Disk) known() int64 {
	d.appendMu.Lock()
	defer d.appendMu.Unlock()
	return d.log.Stats().Head
}

// moveTail is steps 2 to 6.
func (d *Disk) moveTail(tail int64, stop func() bool) error {
	if err := d.recordDurable(tail); err != nil {
		return err
	}
	stolen, err := d.bringHome(tail, stop)
	if refusedSpace(err) || errors.Is(err, errGivenUp) { // what it wrote is still the log's, and nobody reads it at home
		d.unbusy(stolen)
		return asHostFull(err)
	}
	if err != nil {
		return err
	}
	if err := d.home.Flush(); err != nil {
		return fmt.Errorf("flush the backing: %w", err)
	}
	if d.once != nil {
		d.once.unsaved = true
	}
	d.overlay.forget(tail, d.homeIsBase())
	d.unbusy(stolen)
	d.gate.wait()
	if d.poison.Load() != nil {
		return d.poisoned() // something failed meanwhile: nothing durable advances (I9)
	}
	if err := d.saveTail(tail); err != nil {
		return err
	}
	d.log.Free(tail)
	return nil
}

// unbusy gives back the homes that bringHome took from direct writes.
func (d *Disk) unbusy(stolen []ordered.Run) {
	for _, r := range stolen {
		d.once.state.Unbusy(r.Start, r.N)
	}
}

// saveTail is step 5. The fingerprint goes with the tail: what the sampled blocks hold once
// everything before it is home.
func (d *Disk) saveTail(tail int64) error {
	if err := d.fingerprint(); err != nil {
		return err
	}
	sb := &d.super
	if err := d.saveBases(); err != nil {
		return err
	}
	start, err := d.log.StartAt(tail)
	if err != nil {
		return err
	}
	sb.Tail, sb.TailSeq, sb.TailEpoch = start.Tail, start.TailSeq, start.Epoch
	st := d.log.Stats()
	sb.DurableUpTo, sb.Epoch = start.DurableUpTo, st.Epoch
	sb.BarrierSeq, sb.BarrierTime = st.Barrier.Seq, st.Barrier.Time
	// Both slots: the older one names log space that is about to be reused.
	if err := d.store.SaveBoth(sb); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	d.superDurable.Store(sb.DurableUpTo)
	if d.once != nil {
		d.once.generation = sb.StateGeneration
		d.once.unsaved = false
		d.once.state.Committed(sb.StateGeneration)
	}
	return nil
}

// recordDurable sees to it that a recovery will know, without looking at homes, that
// everything before tail is durable: what MAP records before it speak of is about to change.
func (d *Disk) recordDurable(tail int64) error {
	if d.once == nil || d.recordedUpTo() >= tail {
		return nil
	}
	d.super.DurableUpTo = d.log.Stats().DurableUpTo
	if err := d.store.Save(&d.super); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	d.superDurable.Store(d.super.DurableUpTo)
	return nil
}

// homeIsBase tells the write-once side, under the overlay's lock, of extents that are home
// now. The slots that their blocks had are needed until the superblock no longer names
// them: no record before the head gives them free, and none after it is there when the
// checkpoint ends.
func (d *Disk) homeIsBase() func(off, end int64) {
	if d.once == nil {
		return nil
	}
	head := d.log.Stats().Head
	return func(off, end int64) {
		d.once.state.MapHome(off/blockBytes, blocksOf(end)-off/blockBytes, head)
	}
}

// saveBases stores the write-once state, where there is one, under a new generation, and makes the
// log durable. One flush of the log serves two ends:
//
//   - What a checkpoint passed over was written again. Its newer version is behind the tail,
//     perhaps behind the last barrier too, and a cut there must not lose both.
//   - What the state tells includes changes that are in the log beyond the tail.
func (d *Disk) saveBases() error {
	if d.once != nil {
		if err := d.once.state.Save(d.once.store, d.once.generation+1); err != nil {
			return asHostFull(err) // a save that was refused can be made again
		}
	}
	if _, err := d.log.Flush(); err != nil {
		return fmt.Errorf("flush the log: %w", err)
	}
	if d.once == nil {
		return nil
	}
	if err := d.once.store.Flush(); err != nil {
		return fmt.Errorf("flush the write-once state: %w", err)
	}
	d.super.StateGeneration = d.once.generation + 1
	return nil
}

// bringHome is step 2. It returns the homes that it took from direct writes, also with an error.
func (d *Disk) bringHome(tail int64, stop func() bool) (stolen []ordered.Run, err error) {
	if d.homeBuf == nil {
		d.homeBuf = make([]byte, 0, max(min(homeRun, d.batchBytes), int64(d.maxPayload)))
	}
	run := homeWriter{d: d, tail: tail, buf: d.homeBuf[:0], composed: -1}
	extents := make([]extent, 0, walkChunk)
	for from := int64(0); from >= 0; {
		extents, from = d.overlay.below(extents[:0], from, tail)
		for i := range extents {
			if stop != nil && stop() {
				return run.stolen, errGivenUp
			}
			if err := run.bring(&extents[i]); err != nil {
				return run.stolen, err
			}
		}
	}
	return run.stolen, run.flush()
}

// homeWriter gathers neighbours into one write.
type homeWriter struct {
	d    *Disk
	tail int64
	off  int64  // where buf goes
	buf  []byte // capacity homeRun

	stolen   []ordered.Run // homes taken from direct writes, in order
	bases    []extent
	composed int64 // the last block that was put together; -1 none
}

func (w *homeWriter) add(e *extent) error {
	if e.state != logged {
		if err := w.flush(); err != nil {
			return err
		}
		if err := disk.Zero(w.d.home, e.off, e.end-e.off, e.state == zeroed); err != nil {
			return fmt.Errorf("zero %d bytes of the backing at %d: %w", e.end-e.off, e.off, err)
		}
		return nil
	}
	n := int(e.end - e.off)
	if w.off+int64(len(w.buf)) != e.off || len(w.buf)+n > cap(w.buf) {
		if err := w.flush(); err != nil {
			return err
		}
		w.off = e.off
	}
	at := len(w.buf)
	w.buf = w.buf[:at+n]
	return w.d.readLogged(w.buf[at:], e)
}

// readLogged fills p with the bytes of e, which is as long.
func (d *Disk) readLogged(p []byte, e *extent) error {
	if _, err := d.payloads.ReadAt(p, e.pos); err != nil {
		return err
	}
	return checkPayload(p, e)
}

// checkPayload holds bytes that were read from the log against their checksum, if e is a whole
// record of which it is known.
func checkPayload(p []byte, e *extent) error {
	if !e.checked {
		return nil
	}
	if got := crc32.Checksum(p, castagnoli); got != e.crc {
		return fmt.Errorf("log at %d: checksum %08x, want %08x: %w", e.pos, got, e.crc, wal.ErrCorrupt)
	}
	return nil
}

func (w *homeWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.d.home.WriteAt(w.buf, w.off); err != nil {
		return fmt.Errorf("write %d bytes home at %d: %w", len(w.buf), w.off, err)
	}
	w.d.counters.homeBytes.Add(uint64(len(w.buf)))
	w.buf = w.buf[:0]
	return nil
}
