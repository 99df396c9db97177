package journal

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// An incarnation is one history of the disk (decision 12). As long as it stays the same, the
// disk holds every write that was ever replied to in it, flushed or not: a client that was
// cut off may go on where it was, and send again what had no reply. It changes
//
//   - after a disk that was not closed, if the host's kernel has started anew since: what was
//     replied to and not flushed was in the page cache (P2 holds for a process, not for a
//     host);
//   - after a write or flush that failed (P9), or that recovery could not make: the kernel may have
//     dropped what it could not write, and tells nobody but the process that asked;
//   - when the log is cut at a barrier and something lay behind it;
//   - when the backing was written by something else: it was accepted although it had changed, or
//     it was a closed disk and is not as the close left it.
//
// Together with the log's sequence numbers, which never go back within an incarnation, it
// also tells an old copy of the disk from the disk.

// settleIncarnation decides whether the disk that replay found is still the one that clients
// know. takeOver makes it durable before the first request. A reader can't store another
// one, and has none then.
func (d *Disk) settleIncarnation(scan *wal.ScanResult, opt Options) error {
	lost, err := d.mayHaveLost(scan, opt)
	if err != nil {
		return err
	}
	switch {
	case opt.ReadOnly && lost:
		d.super.Incarnation = 0
	case opt.ReadOnly:
	case lost:
		d.super.NewIncarnation()
	}
	if !opt.ReadOnly {
		d.super.BootID = opt.BootID
	}
	d.incarnation = d.super.Incarnation
	d.cutSeq = scan.NextSeq
	return nil
}

// mayHaveLost reports whether writes that were replied to may be missing from the disk.
func (d *Disk) mayHaveLost(scan *wal.ScanResult, opt Options) (bool, error) {
	sb := &d.opened
	switch {
	case sb.Incarnation == 0, d.accepted:
		return true, nil
	case opt.Recover == wal.CutBarrier && scan.Dropped.Frames > 0:
		return true, nil
	case sb.State == jsuper.Dirty:
		return opt.BootID == [16]byte{} || opt.BootID != sb.BootID, nil
	case sb.State == jsuper.Closed:
		return d.touchedSinceClose()
	}
	return false, nil // checkBacking has looked at it
}

// touchedSinceClose reports whether a closed disk's backing may not be as the close left it.
func (d *Disk) touchedSinceClose() (bool, error) {
	known := d.opened.Fingerprint.ModTimeNs
	if known == 0 || modTime(d.backing) != known {
		return true, nil
	}
	err := d.opened.Fingerprint.Compare(d.home, func(int64, int64) bool { return false })
	if errors.Is(err, jsuper.ErrChanged) {
		return true, nil
	}
	return false, err
}

// Incarnation names the history that the disk is in, and how far it has come: seq is above
// that of every change that was replied to, and never goes back within an incarnation.
// incarnation is 0 if the disk has none that a client could rely on.
func (d *Disk) Incarnation() (incarnation, seq uint64) {
	if d.log == nil {
		return d.incarnation, d.cutSeq
	}
	return d.incarnation, d.log.Stats().NextSeq
}

// ending is how the superblock comes to say that the incarnation has ended with a failure. That
// can't wait for the next open, which finds a log that is whole, only shorter.
type ending struct {
	once sync.Once
	done chan struct{} // closed when err is there
	err  error         // why the superblock may not say so
}

// endIncarnation sees to it that the next open changes the incarnation, because I/O has failed
// and writes that were replied to may be gone: the superblock forgets in which run of the
// kernel they were in the page cache. It does not wait, the medium may hang.
//
// The flushes of the journal end before: one of them could otherwise be told of a failure in
// place of another.
func (d *Disk) endIncarnation(cause error) {
	d.ending.once.Do(func() {
		go func() { // ends with its writes; giveUp waits for it, Close as long as endingTime
			defer close(d.ending.done)
			if err := d.store.ForgetBoot(disk.Stop(d.guarded.Journal, cause), cause); err != nil {
				d.ending.err = fmt.Errorf("%w: %w", ErrIncarnationStays, err)
			}
		}()
	})
}

// endingTime is how long Close waits for endIncarnation.
const endingTime = 5 * time.Second

// awaitEnding waits for what endIncarnation has begun, or is about to.
func (d *Disk) awaitEnding() error {
	patience := time.NewTimer(endingTime)
	defer patience.Stop()
	select {
	case <-d.ending.done:
		return d.ending.err
	case <-patience.C:
		return fmt.Errorf("%w: no answer in %v", ErrIncarnationStays, endingTime)
	}
}

// recoveryMayHaveLost reports whether writes that were replied to may be gone since recovery has
// failed with err, before it made them durable. What a full host refuses is not that.
func (d *Disk) recoveryMayHaveLost(err error) bool {
	switch {
	case d.opened.State != jsuper.Dirty:
		return false
	case !refusedSpace(err):
		return true
	}
	return disk.FlushFailed(d.guarded.Journal) != nil || disk.FlushFailed(d.guarded.Backing) != nil
}
