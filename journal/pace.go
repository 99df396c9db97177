package journal

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How full the log is decides who works and who waits (P7):
//
//	below checkpointFrom   changes gather: what is written twice goes home once
//	above checkpointFrom   the checkpointer runs, batch after batch, down to checkpointTo
//	above holdFrom         writers are held back, the more the fuller it is, so that near
//	                       the top they go at the speed at which the log drains
//	full                   writers wait for the next batch that is freed
const (
	checkpointFrom = 0.50
	checkpointTo   = 0.35
	holdFrom       = 0.75
)

const (
	// idleAfter is how long nothing must have changed before a log that is not full is
	// brought home anyway, so that a quiet disk is a raw image but for the last seconds.
	idleAfter = 2 * time.Second
	idleCheck = 500 * time.Millisecond
	// maxHold bounds one hold; what is owed beyond it is forgotten.
	maxHold = 50 * time.Millisecond
	// minHold is the least that is worth a sleep; less is saved up.
	minHold = time.Millisecond
)

// pace holds writers back. Only the leader of the append queue calls hold.
type pace struct {
	drain atomic.Int64  // bytes of log a second that checkpoints free, smoothed; 0 unknown
	owed  time.Duration // by the leader, not yet slept
}

// drained tells what a checkpoint freed and how long it took.
func (p *pace) drained(bytes int64, took time.Duration) {
	if bytes <= 0 || took <= 0 {
		return
	}
	rate := int64(float64(bytes) / took.Seconds())
	if old := p.drain.Load(); old > 0 {
		rate = (3*old + rate) / 4
	}
	p.drain.Store(max(rate, 1))
}

// hold makes the leader wait as long as the fill of the log asks for n more bytes.
func (p *pace) hold(d *Disk, n int64) {
	fill := d.fill()
	if fill < checkpointFrom {
		return
	}
	d.kickCheckpoint()
	rate := p.drain.Load()
	if fill < holdFrom || rate == 0 {
		return
	}
	share := min((fill-holdFrom)/(1-holdFrom), 1)
	p.owed += time.Duration(float64(n) / float64(rate) * share * float64(time.Second))
	if p.owed < minHold {
		return
	}
	time.Sleep(min(p.owed, maxHold))
	p.owed = 0
}

// fill is how much of the log, or of the memory for the overlay, is in use: 0 empty, 1 full.
func (d *Disk) fill() float64 {
	st := d.log.Stats()
	log := float64(st.Head-st.Tail) / float64(d.logRoom)
	extents, _ := d.overlay.size()
	return max(log, float64(extents)/float64(d.maxExtents.Load()))
}

// kickCheckpoint asks the checkpointer to look at the log.
func (d *Disk) kickCheckpoint() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// idle reports whether nobody has changed the disk for idleAfter.
func (d *Disk) idle() bool {
	return time.Since(d.started)-time.Duration(d.lastChange.Load()) >= idleAfter
}

// whileIdle repeats work that nobody waits for until it moves nothing, fails, or a client changes the
// disk, of which changed tells. Between two it rests as long as the last one took, so that half of the
// medium's time is anybody's.
func (d *Disk) whileIdle(work func(changed func() bool) (moved bool, err error)) error {
	changed := func() bool { return !d.idle() || d.closing.Load() }
	for !changed() {
		began := time.Now()
		if moved, err := work(changed); err != nil || !moved {
			return err
		}
		select {
		case <-d.stopped:
			return nil
		case <-d.kick:
			d.kickCheckpoint() // it is the loop's
			return nil
		case <-time.After(time.Since(began)):
		}
	}
	return nil
}

// broadcast wakes all that wait for an event, each time it happens.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu; closed at the next event
}

func newBroadcast() *broadcast { return &broadcast{ch: make(chan struct{})} }

// next is closed at the first event after the call.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

// behindNice is how much nicer the thread that works behind is: it has a fifth to a tenth of the weight
// of those that serve clients, where there is not enough of the processors for both. When
// clients wait for the checkpointer they leave it all it wants.
const behindNice = 8

// stepBack makes the calling goroutine's work give way to clients' requests, until it calls
// forward, at its end. Who may not raise a priority again loses the thread with the goroutine:
// another's work must not inherit it. Who may keeps the thread, because the kernel takes the
// death of a thread for that of a parent where a child was started from it (PR_SET_PDEATHSIG).
func stepBack() (forward func()) {
	runtime.LockOSThread()
	thread := unix.Gettid()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	nice := 20 - raw // so the system call tells it
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, thread, min(nice+behindNice, 19))
	}
	if err != nil { // then it is as quick as anybody
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.Setpriority(unix.PRIO_PROCESS, thread, nice) == nil {
			runtime.UnlockOSThread()
		}
	}
}
