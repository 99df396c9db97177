package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// tiny is a layout whose log fills at once.
var tiny = layout{name: "tiny", disk: 1 << 20, journal: logStart + 512<<10}

// opened is a fresh disk and its machine. When the test ends everything is checked.
func opened(t *testing.T, l layout, opt Options) (*Disk, *crashdisk.Group) {
	t.Helper()
	g := formatted(t, l)
	d, err := Open(l.parts(g), opt)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return d, g
}

// closed ends d and looks at what it left behind: nothing may be wrong with it.
func closed(t *testing.T, d *Disk, l layout, g *crashdisk.Group) {
	t.Helper()
	if err := d.Close(context.Background()); err != nil {
		t.Fatalf("close: %v", err)
	}
	r, err := Inspect(l.parts(g), InspectOptions{VerifyAll: true})
	if err != nil {
		t.Fatalf("after close: %v", err)
	}
	if r.Super.State != jsuper.Clean || r.OverlayExtents != 0 {
		t.Fatalf("after close: state %s, %d extents not home", r.Super.State, r.OverlayExtents)
	}
}

func write(t *testing.T, d *Disk, p []byte, off int64) {
	t.Helper()
	if _, err := d.WriteAt(p, off); err != nil {
		t.Fatalf("write %d bytes at %d: %v", len(p), off, err)
	}
}

func expect(t *testing.T, d *Disk, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, off); err != nil {
		t.Fatalf("read %d bytes at %d: %v", len(got), off, err)
	}
	if i := firstDifference(got, want); i >= 0 {
		t.Fatalf("byte %d is %#x, want %#x", off+int64(i), got[i], want[i])
	}
}

func pattern(seed uint64, n int) []byte {
	o := op{fill: seed, n: int64(n)}
	return o.data()
}

// TestReadsSeeWrites walks a small disk through every way a byte can be stored.
func TestReadsSeeWrites(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	model := make([]byte, tiny.disk)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 400 {
		c := &client{off: 0, size: tiny.disk}
		o := randomOp(rng, c, 1, 40<<10)
		if !o.changes() {
			continue
		}
		if err := o.perform(d, i%2 == 0); err != nil {
			t.Fatalf("%s: %v", &o, err)
		}
		o.apply(model, 0)
		if i%50 == 49 {
			if err := d.Checkpoint(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
		}
		from := rng.Int64N(tiny.disk)
		expect(t, d, from, model[from:from+rng.Int64N(tiny.disk-from)+1])
		got := make([]byte, 4096)
		if at := rng.Int64N(tiny.disk - 4096); !d.ReadCachedAt(got, at) || !bytes.Equal(got, model[at:at+4096]) {
			t.Fatalf("cached read at %d is wrong", at)
		}
	}
	checkExtents(t, d, model)
	closed(t, d, tiny, g)
	raw := g.Lookup("backing").Snapshot()
	if i := firstDifference(raw, model); i >= 0 {
		t.Fatalf("raw backing differs at byte %d after close", i)
	}
}

// checkExtents: the pieces cover the range, and what is called zero is zero.
func checkExtents(t *testing.T, d *Disk, model []byte) {
	t.Helper()
	at, data := int64(0), 0
	err := d.Extents(0, d.size, func(off, n int64, hole, zero bool) bool {
		if off != at || n <= 0 {
			t.Fatalf("piece [%d,+%d) after %d", off, n, at)
		}
		at = off + n
		if hole && !zero {
			t.Errorf("piece [%d,+%d) is a hole that is not zero", off, n)
		}
		if zero && bytes.Count(model[off:at], []byte{0}) != int(n) {
			t.Errorf("piece [%d,+%d) is called zero and is not", off, n)
		}
		if !zero {
			data++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if at != d.size {
		t.Errorf("pieces end at %d of %d", at, d.size)
	}
	if data == 0 {
		t.Error("no piece holds data")
	}
}

// TestFullLogIsBackPressure is P7: writes far beyond the log's size wait, and none fails.
func TestFullLogIsBackPressure(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	p := pattern(1, 16<<10)
	for i := range 400 { // 6.4 MiB through a log of half a MiB
		write(t, d, p, int64(i%60)*(16<<10))
	}
	if st := d.Stats(); st.Checkpoints < 10 {
		t.Errorf("%d checkpoints", st.Checkpoints)
	}
	expect(t, d, 0, p)
	closed(t, d, tiny, g)
}

// TestMemoryBound is P11: the overlay stays under its bound however small writes are.
func TestMemoryBound(t *testing.T) {
	l := layout{disk: 1 << 20, journal: logStart + 4<<20}
	const memory = 2 * extentBytes * walkChunk // the least: walkChunk extents
	d, g := opened(t, l, Options{Memory: memory})
	most := 0
	for i := range int64(20_000) {
		write(t, d, []byte{byte(i)}, i*37%l.disk)
		n, _ := d.overlay.size()
		most = max(most, n)
	}
	if most > walkChunk {
		t.Errorf("overlay had %d extents, its bound is %d", most, walkChunk)
	}
	closed(t, d, l, g)
}

// TestGhostIsDropped is trap 1: what its connection has given up never gets a place.
func TestGhostIsDropped(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	newer, older := pattern(1, 4096), pattern(2, 4096)
	write(t, d, newer, 0)
	dead := func() bool { return false }
	if err := d.WriteBatch([][]byte{older}, []int64{0}, false, dead); !errors.Is(err, ErrDropped) {
		t.Errorf("ghost write answers %v", err)
	}
	if err := d.Trim(0, 4096, dead); !errors.Is(err, ErrDropped) {
		t.Errorf("ghost trim answers %v", err)
	}
	if err := d.Zero(0, 4096, true, dead); !errors.Is(err, ErrDropped) {
		t.Errorf("ghost zero answers %v", err)
	}
	expect(t, d, 0, newer)
	closed(t, d, tiny, g)
}

// TestGhostBehindAStalledLeader: a request waits behind a write that hangs in the device; its
// connection dies meanwhile. It must not run when the device wakes up, while its neighbour in
// the queue must.
func TestGhostBehindAStalledLeader(t *testing.T) {
	g := formatted(t, tiny)
	d, err := Open(tiny.parts(g), Options{})
	if err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var stalled atomic.Bool
	g.OnOp(func(int, string) {
		if stalled.CompareAndSwap(false, true) {
			close(reached)
			<-release
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() { write(t, d, pattern(1, 512), 0) })
	<-reached
	var alive atomic.Bool
	alive.Store(true)
	var ghost, living error
	wg.Go(func() { ghost = d.WriteBatch([][]byte{pattern(2, 512)}, []int64{4096}, false, alive.Load) })
	wg.Go(func() { living = d.WriteBatch([][]byte{pattern(3, 512)}, []int64{8192}, false, nil) })
	for queued := 0; queued < 2; {
		d.queue.mu.Lock()
		queued = len(d.queue.waiting)
		d.queue.mu.Unlock()
	}
	alive.Store(false)
	close(release)
	wg.Wait()
	if !errors.Is(ghost, ErrDropped) {
		t.Errorf("the ghost answers %v", ghost)
	}
	if living != nil {
		t.Errorf("its neighbour answers %v", living)
	}
	expect(t, d, 4096, make([]byte, 512))
	expect(t, d, 8192, pattern(3, 512))
	closed(t, d, tiny, g)
}

// TestConcurrentOverlap is trap 9: whoever wins while clients overwrite each other, log and
// memory agree on it: after a restart the disk reads the same. Requests are of all sizes, so
// that many share a frame, and zeros and writes of a byte meet in one.
func TestConcurrentOverlap(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		t.Run(mode.String(), func(t *testing.T) {
			l := layout{disk: 1 << 20, journal: logStart + 1<<20, mode: mode, spare: 128 << 10}
			d, g := opened(t, l, Options{})
			var wg sync.WaitGroup
			for c := range uint64(6) {
				wg.Go(func() { overlap(t, d, c) })
			}
			wg.Wait()
			before, err := content(d)
			if err != nil {
				t.Fatal(err)
			}
			after := g.KillImage()
			again, p, err := recovered(l, after, wal.CutPrefix)
			if err != nil {
				t.Fatal(err)
			}
			if i := firstDifference(p, before); i >= 0 {
				t.Errorf("byte %d reads differently after a restart", i)
			}
			closed(t, again, l, after)
			closed(t, d, l, g)
		})
	}
}

// overlap is one client of TestConcurrentOverlap.
func overlap(t *testing.T, d *Disk, c uint64) {
	rng := rand.New(rand.NewPCG(c, 5))
	for i := range uint64(200) {
		n := 1 + rng.Int64N(3)
		if rng.IntN(2) == 0 {
			n = 1 + rng.Int64N(100<<10)
		}
		off := rng.Int64N(160 << 10)
		var err error
		switch rng.IntN(8) {
		case 0:
			err = d.Trim(off, n, nil)
		case 1:
			err = d.Zero(off, n, rng.IntN(2) == 0, nil)
		case 2:
			err = d.Sync()
		default:
			_, err = d.WriteAt(pattern(c<<32|i, int(n)), off)
		}
		if err != nil {
			t.Error(err)
		}
		if _, err := d.ReadAt(make([]byte, n), off); err != nil {
			t.Error(err)
		}
	}
}

// TestGroupCommit: flushes that wait together cost one flush of the device, whatever their
// number; and a flush with nothing new costs none.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := layout{disk: 1 << 20, journal: logStart + 8<<20}
		d, g := opened(t, l, Options{})
		before := d.Stats().Flushes

		// The first flush hangs in the device until all others wait behind it.
		release := make(chan struct{})
		var first atomic.Bool
		g.OnOp(func(_ int, operation string) {
			if strings.HasPrefix(operation, "flush") && first.CompareAndSwap(false, true) {
				<-release
			}
		})
		var wg sync.WaitGroup
		flush := func(i int64) {
			write(t, d, pattern(uint64(i), 512), i*512)
			if err := d.Sync(); err != nil {
				t.Error(err)
			}
		}
		wg.Go(func() { flush(0) })
		synctest.Wait()
		for i := range int64(20) {
			wg.Go(func() { flush(i + 1) })
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if n := d.Stats().Flushes - before; n != 2 {
			t.Errorf("%d flushes, want the one that hung, and one for all that waited", n)
		}

		before = d.Stats().Flushes
		for range 100 {
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if n := d.Stats().Flushes - before; n != 0 {
			t.Errorf("%d flushes with nothing to flush", n)
		}
		closed(t, d, l, g)
	})
}

// TestOrderInsideAFrame: a write and a zero that go into one frame keep their order through a
// restart, however small they are.
func TestOrderInsideAFrame(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	hang := stall(g)
	var wg sync.WaitGroup
	wg.Go(func() { write(t, d, []byte{1}, 900_000) }) // hangs in the device
	<-hang.reached
	queued := func(n int, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
		for waiting := 0; waiting < n; {
			d.queue.mu.Lock()
			waiting = len(d.queue.waiting)
			d.queue.mu.Unlock()
		}
	}
	// All of these become one append: 1 byte, then zeros over it, in several shapes.
	for i := range int64(16) {
		at := i * 5000
		queued(int(4*i)+1, func() error { return d.WriteBatch([][]byte{{0xaa}}, []int64{at + 10}, false, nil) })
		queued(int(4*i)+2, func() error { return d.Zero(at, 4096, true, nil) })
		queued(int(4*i)+3, func() error { return d.WriteBatch([][]byte{{0xbb}}, []int64{at + 4200}, false, nil) })
		queued(int(4*i)+4, func() error { return d.Trim(at+4200, 1, nil) })
	}
	close(hang.release)
	wg.Wait()
	before, err := content(d)
	if err != nil {
		t.Fatal(err)
	}
	if before[10] != 0 || before[4200] != 0 {
		t.Fatal("the later zero did not win")
	}
	after := g.KillImage()
	again, p, err := recovered(tiny, after, wal.CutPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(p, before); i >= 0 {
		t.Errorf("byte %d is %#x after a restart, %#x before", i, p[i], before[i])
	}
	closed(t, again, tiny, after)
	closed(t, d, tiny, g)
}

// stalled is a device operation that hangs.
type stalled struct {
	reached chan struct{} // closed when it hangs
	release chan struct{} // the test closes it to let it go on
}

// stall makes the next operation on g hang.
func stall(g *crashdisk.Group) stalled { return stallAt(g, "") }

// stallAt makes the next operation on g that begins so hang.
func stallAt(g *crashdisk.Group, operation string) stalled {
	s := stalled{make(chan struct{}), make(chan struct{})}
	var first atomic.Bool
	g.OnOp(func(_ int, o string) {
		if strings.HasPrefix(o, operation) && first.CompareAndSwap(false, true) {
			close(s.reached)
			<-s.release
		}
	})
	return s
}

// TestBigRequestInHalfFullLog: space that is short for one request must be made at once, also
// when the log is not full enough to be checkpointed for its own sake.
func TestBigRequestInHalfFullLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, tiny, Options{})
		p := pattern(1, 100<<10)
		write(t, d, p, 0)
		began := time.Now()
		for i := range int64(6) {
			write(t, d, p, i*(150<<10)/2)
		}
		if took := time.Since(began); took > maxHold*4 {
			t.Errorf("waited %v for space that a checkpoint had to make", took)
		}
		closed(t, d, tiny, g)
	})
}

// TestCutKeepsWhatWasPassedOver: a flushed block that was written again without a flush is not
// brought home, and its place in the log is freed. A cut at the last barrier must find one
// of the two versions.
func TestCutKeepsWhatWasPassedOver(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		l := tiny
		l.mode = mode
		d, g := opened(t, l, Options{})
		older, newer := pattern(1, 1000), pattern(2, 1000)
		write(t, d, older, 0)
		for i := range int64(40) { // the barrier is far enough for a batch
			write(t, d, pattern(uint64(i), 2000), 100_000+i*4096)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		write(t, d, newer, 0)
		if moved, err := d.checkpointBatch(d.batchBytes, nil); err != nil || !moved {
			t.Fatalf("checkpoint: moved %v, %v", moved, err)
		}
		g.Crash()
		abandon(d)
		for image := range int64(imagesPerCrash) {
			again, p, err := recovered(l, g.Image(image), wal.CutBarrier)
			if err != nil {
				t.Fatal(err)
			}
			abandonQuietly(again)
			if !bytes.Equal(p[:1000], older) && !bytes.Equal(p[:1000], newer) {
				t.Fatalf("mode %s, image %d: a flushed write is lost", mode, image)
			}
			done(p)
		}
	}
}

// TestAcceptIsRemembered: a backing that was accepted once is not refused after the next crash.
func TestAcceptIsRemembered(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	write(t, d, pattern(1, 4096), 500_000)
	abandonQuietly(d)
	g = g.KillImage()
	parts := scribble(0)(t, g)
	if _, err := Open(parts, Options{}); !errors.Is(err, ErrBackingChanged) {
		t.Fatalf("open answers %v", err)
	}
	d, err := Open(parts, Options{AcceptBacking: true})
	if err != nil {
		t.Fatal(err)
	}
	g = g.KillImage()
	abandonQuietly(d)
	if d, err = Open(tiny.parts(g), Options{}); err != nil {
		t.Fatalf("after it was accepted: %v", err)
	}
	closed(t, d, tiny, g)
}

// TestTimerBarrier: with --commit-interval nothing stays undurable longer than that.
func TestTimerBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := layout{disk: 1 << 20, journal: logStart + 8<<20}
		d, g := opened(t, l, Options{CommitInterval: time.Second})
		write(t, d, pattern(1, 4096), 0)
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		g.Crash()
		abandon(d)
		again, p, err := recovered(l, g.Image(1), wal.CutBarrier)
		if err != nil {
			t.Fatal(err)
		}
		abandon(again)
		if !bytes.Equal(p[:4096], pattern(1, 4096)) {
			t.Error("a write is lost that the timer should have made durable")
		}
	})
}

// TestIdleDiskGoesHome: a quiet disk is a raw image after some seconds.
func TestIdleDiskGoesHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, tiny, Options{})
		write(t, d, pattern(1, 4096), 8192)
		time.Sleep(idleAfter + 2*idleCheck)
		synctest.Wait()
		raw := make([]byte, 4096)
		if _, err := g.Lookup("backing").ReadAt(raw, 8192); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, pattern(1, 4096)) {
			t.Error("the write is not home")
		}
		closed(t, d, tiny, g)
	})
}

// TestRestartsWithoutCheckpoint: a server that is killed right after each start must not
// lock itself out, however often (trap: starts fill the log).
func TestRestartsWithoutCheckpoint(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	p := pattern(1, 100<<10)
	write(t, d, p, 0)
	for i := range 300 {
		g = g.KillImage()
		next, err := Open(tiny.parts(g), Options{})
		if err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		abandonQuietly(d)
		d = next
	}
	expect(t, d, 0, p)
	closed(t, d, tiny, g)
}

// abandonQuietly ends a disk of a machine that is of no interest any more.
func abandonQuietly(d *Disk) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d.Close(ctx)
}

// TestReadOnly: a disk that is opened read-only serves what the log holds, and not one
// operation reaches a device.
func TestReadOnly(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	p := pattern(1, 10_000)
	write(t, d, p, 3)
	after := g.KillImage()
	abandonQuietly(d)
	r, err := Open(tiny.parts(after), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, 3, p)
	if _, err := r.WriteAt([]byte{1}, 0); !errors.Is(err, ErrReadOnly) {
		t.Errorf("write answers %v", err)
	}
	if err := r.Sync(); err != nil {
		t.Errorf("flush answers %v", err)
	}
	if err := r.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := after.Ops(); n != 0 {
		t.Errorf("%d operations on the devices, the first: %s", n, after.OpInfo(1))
	}
}

// TestRefusals is P10 as far as the engine sees it.
func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		state  func(*Disk) error // how the last use ended
		damage func(t *testing.T, g *crashdisk.Group) Parts
		opt    Options
		want   error
	}{
		{"foreign write after a crash", wasCrashed, scribble(0), Options{}, ErrBackingChanged},
		{"foreign write after a stop", wasStopped, scribble(4096), Options{}, ErrBackingChanged},
		{"the same, accepted", wasStopped, scribble(4096), Options{AcceptBacking: true}, nil},
		{"foreign write after close", wasFinished, scribble(0), Options{}, nil},
		{"shrunken backing", wasStopped, shrink, Options{}, jsuper.ErrShrunk},
		{"no journal", wasStopped, wipe, Options{}, jsuper.ErrNoJournal},
		{"log damaged where it is durable", wasCrashed, flipLog, Options{}, wal.ErrCorrupt},
		{"another disk's log", wasCrashed, swapLog, Options{}, wal.ErrCorrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, g := opened(t, tiny, Options{})
			for i := range int64(8) {
				write(t, d, pattern(uint64(i), 8<<10), 100_000+i*(8<<10))
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if err := tc.state(d); err != nil {
				t.Fatal(err)
			}
			g = g.KillImage()
			parts := tc.damage(t, g)
			before := g.Ops()
			again, err := Open(parts, tc.opt)
			if !errors.Is(err, tc.want) {
				t.Fatalf("open answers %v, want %v", err, tc.want)
			}
			if err == nil {
				closed(t, again, tiny, g)
				return
			}
			if n := g.Ops() - before; n != 0 {
				t.Errorf("a refused disk was written to, %d operations, the first: %s", n, g.OpInfo(before+1))
			}
		})
	}
}

func wasCrashed(d *Disk) error {
	abandonQuietly(d)
	return nil
}
func wasStopped(d *Disk) error  { return d.Close(context.Background()) }
func wasFinished(d *Disk) error { return d.Finish(context.Background(), nil) }

func scribble(off int64) func(*testing.T, *crashdisk.Group) Parts {
	return func(t *testing.T, g *crashdisk.Group) Parts {
		if _, err := g.Lookup("backing").WriteAt([]byte("not yours"), off); err != nil {
			t.Fatal(err)
		}
		return tiny.parts(g)
	}
}

func shrink(_ *testing.T, g *crashdisk.Group) Parts {
	p := tiny.parts(g)
	p.Backing = disk.Region(p.Backing, 0, tiny.disk-4096)
	return p
}

func wipe(t *testing.T, g *crashdisk.Group) Parts {
	if _, err := g.Lookup("journal").WriteAt(make([]byte, logStart), 0); err != nil {
		t.Fatal(err)
	}
	return tiny.parts(g)
}

// flipLog changes one byte of the second durable write's payload.
func flipLog(t *testing.T, g *crashdisk.Group) Parts {
	p := tiny.parts(g)
	want := pattern(1, 8<<10)
	j := g.Lookup("journal").Snapshot()
	at := bytes.Index(j, want)
	if at < 0 {
		t.Fatal("the write is not in the log")
	}
	if _, err := p.Journal.WriteAt([]byte{^want[100]}, int64(at)+100); err != nil {
		t.Fatal(err)
	}
	return p
}

// swapLog puts the log of another disk under this one's superblock.
func swapLog(t *testing.T, g *crashdisk.Group) Parts {
	other, og := opened(t, tiny, Options{})
	write(t, other, pattern(9, 8<<10), 0)
	if err := other.Sync(); err != nil {
		t.Fatal(err)
	}
	abandonQuietly(other)
	if _, err := g.Lookup("journal").WriteAt(og.Lookup("journal").Snapshot()[logStart:], logStart); err != nil {
		t.Fatal(err)
	}
	return tiny.parts(g)
}

// TestRequestLargerThanTheLog is refused whole, and a batch of many that fit is not.
func TestRequestLargerThanTheLog(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	if _, err := d.WriteAt(make([]byte, 600<<10), 0); !errors.Is(err, ErrTooBig) {
		t.Errorf("a write larger than the log answers %v", err)
	}
	var data [][]byte
	var offsets []int64
	for i := range int64(100) {
		data = append(data, pattern(uint64(i), 9000))
		offsets = append(offsets, i*9000)
	}
	if err := d.WriteBatch(data, offsets, false, nil); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		expect(t, d, offsets[i], data[i])
	}
	closed(t, d, tiny, g)
}

// TestOutOfRange: nothing beyond the disk gets past the engine.
func TestOutOfRange(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	for _, off := range []int64{-1, tiny.disk, tiny.disk - 1, 1 << 62} {
		p := make([]byte, 2)
		if _, err := d.ReadAt(p, off); !errors.Is(err, disk.ErrOutOfRange) {
			t.Errorf("read at %d: %v", off, err)
		}
		if _, err := d.WriteAt(p, off); !errors.Is(err, disk.ErrOutOfRange) {
			t.Errorf("write at %d: %v", off, err)
		}
		if err := d.Trim(off, 2, nil); !errors.Is(err, disk.ErrOutOfRange) {
			t.Errorf("trim at %d: %v", off, err)
		}
	}
	closed(t, d, tiny, g)
}

// named is a device that says which file it is.
type named struct {
	*crashdisk.Disk
	id byte
}

func (n named) Identity() ([16]byte, error) { return [16]byte{n.id}, nil }

// TestForeignJournal: a journal that holds one disk's blocks is not brought onto another, even
// where nothing that is sampled differs.
func TestForeignJournal(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		l := tiny
		l.mode = mode
		g := crashdisk.NewGroup(1)
		on := func(g *crashdisk.Group, id byte) Parts {
			p := l.parts(g)
			p.Backing = named{g.Lookup("backing"), id}
			return p
		}
		if _, err := Format(on(l.machine(g), 1), l.format()); err != nil {
			t.Fatal(err)
		}
		d, err := Open(on(g, 1), Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, d, pattern(1, 1000), 700_001)
		after := g.KillImage()
		abandonQuietly(d)
		if _, err := Open(on(after, 2), Options{}); !errors.Is(err, ErrForeign) {
			t.Errorf("mode %s: the journal of another disk: %v", mode, err)
		}
		d, err = Open(on(after, 2), Options{AcceptBacking: true})
		if err != nil {
			t.Fatalf("mode %s: accepted: %v", mode, err)
		}
		expect(t, d, 700_001, pattern(1, 1000))
		after = after.KillImage()
		abandonQuietly(d)
		if d, err = Open(on(after, 2), Options{}); err != nil {
			t.Fatalf("mode %s: after it was accepted: %v", mode, err)
		}
		abandonQuietly(d)
	}
}
