package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// The crash suite: run a workload, let the power go at the k-th operation of any device,
// for every k; rebuild images of what the media may hold then; recover; ask the model
// (model_test.go) whether the promises held. Then the same with the power going again at
// every operation of the recovery, and with every operation failing instead.

// imagesPerCrash is how many images are made of each crash. Image 0 is process death, in which
// nothing is lost; image 1 is the loss of everything unflushed.
const imagesPerCrash = 8

// suite is one workload on one layout.
type suite struct {
	layout
	clients  int
	requests int   // of each client
	least    int64 // bytes of one request
	most     int64
	flushed  int64 // Options.UnflushedBulk
}

// The sizes keep log and disk small, so that the log wraps, fills and is checkpointed many
// times in a run of some hundred operations.
func suites() []suite {
	small := layout{name: "beside", disk: 1 << 20, journal: logStart + 512<<10}
	inside := layout{name: "internal", internal: true, disk: 1 << 20, journal: 540 << 10}
	flushed := layout{name: "flushed", disk: 1 << 20, journal: logStart + 512<<10}
	large := layout{name: "large", disk: 4 << 20, journal: logStart + 4<<20}
	crowd := layout{name: "crowd", disk: 1 << 20, journal: logStart + 1<<20}
	in := func(l layout, mode jsuper.Mode, spare int64) layout {
		l.mode, l.spare = mode, spare
		return l
	}
	return []suite{
		{layout: small, clients: 1, requests: 70, most: 64 << 10},
		{layout: inside, clients: 1, requests: 70, most: 64 << 10},
		{layout: small, clients: 3, requests: 30, most: 32 << 10},
		{layout: large, clients: 1, requests: 32, most: 1 << 20},
		// Spare of all sizes: more than enough, and so short that writes fall back to the log.
		{layout: in(small, jsuper.Ordered, 0), clients: 1, requests: 70, most: 64 << 10},
		{layout: in(inside, jsuper.Ordered, 128<<10), clients: 1, requests: 70, most: 64 << 10},
		{layout: in(small, jsuper.Ordered, 256<<10), clients: 3, requests: 30, most: 32 << 10},
		{layout: in(large, jsuper.Auto, 0), clients: 1, requests: 40, most: 1 << 20},
		// Bulk of several clients, which goes to spare in groups.
		{layout: in(crowd, jsuper.Auto, 4<<20), clients: 3, requests: 16, least: 64 << 10, most: 256 << 10},
		{layout: in(crowd, jsuper.Ordered, 4<<20), clients: 3, requests: 16, least: 64 << 10, most: 256 << 10},
		// Bulk that begins a flush by itself, beside what clients do.
		{layout: in(flushed, jsuper.Ordered, 0), clients: 1, requests: 40, most: 64 << 10, flushed: 8 << 10},
	}
}

func (s suite) String() string {
	return fmt.Sprintf("%s-%s-%dclients", max(s.mode, jsuper.Data), s.name, s.clients)
}

// trial is a suite with its fresh disk, and a workload of its own.
type trial struct {
	suite
	base        *crashdisk.Group
	all         []*client
	softFlushes *uint64 // in all runs
}

// ready makes a suite's trial, in a test that runs beside others.
func (s suite) ready(t *testing.T, seed int) trial {
	t.Helper()
	t.Parallel()
	return trial{s, formatted(t, s.layout), workload(uint64(seed), s.clients, s.disk, s.least, s.most, s.requests), new(uint64)}
}

// eachSuite runs a test of each suite. Their workloads have the seeds from seed on.
func eachSuite(t *testing.T, list []suite, seed int, test func(*testing.T, trial)) {
	for i, s := range list {
		t.Run(s.String(), func(t *testing.T) { test(t, s.ready(t, seed+i)) })
	}
}

// crashes are the machines whose power went at operation k of the workload, which a checkpoint
// ends: by k, from 1 on in steps of stride. The clients of all know what was replied to until then.
func (r trial) crashes(t *testing.T, stride int) iter.Seq2[int, *crashdisk.Group] {
	return func(yield func(int, *crashdisk.Group) bool) {
		for k := 1; ; k += stride {
			g, crashed := r.runUntil(t, k)
			if !crashed || !yield(k, g) {
				return
			}
		}
	}
}

// TestCrashAtEveryOperation is P2, P3 and P4.
func TestCrashAtEveryOperation(t *testing.T) {
	eachSuite(t, suites(), 1, func(t *testing.T, r trial) {
		states := 0
		crashes := 0
		for k, g := range r.crashes(t, 1) {
			crashes++
			for image := range int64(imagesPerCrash) {
				r.checkImage(t, g, k, image)
				states++
			}
		}
		if crashes < 100 {
			t.Errorf("only %d operations to crash at: the workload is too small to mean anything", crashes)
		}
		if r.flushed > 0 && *r.softFlushes == 0 {
			t.Errorf("no flush began by itself in %d runs", crashes)
		}
		t.Logf("%d crash points, %d states, %d flushes that began by themselves", crashes, states, *r.softFlushes)
	})
}

// runUntil runs the workload on a copy of the disk, with a checkpoint at the end, and the power
// going at operation k. crashed is false when there was no such operation.
func (r trial) runUntil(t *testing.T, k int) (g *crashdisk.Group, crashed bool) {
	t.Helper()
	reset(r.all)
	g = r.base.KillImage()
	g.CrashAt(k)
	d, err := Open(r.parts(g), Options{BootID: thisBoot, UnflushedBulk: r.flushed})
	if r.clients > 1 { // a medium takes its time, and another client comes meanwhile
		g.OnOp(func(int, string) { runtime.Gosched() })
	}
	if err == nil {
		err = run(d, r.all)
		*r.softFlushes += d.log.Stats().SoftFlushes
		if err == nil {
			err = d.Close(context.Background())
		} else {
			abandon(d)
		}
	}
	if err != nil && !g.Crashed() {
		t.Fatalf("crash at operation %d: failed before it: %v", k, err)
	}
	if err == nil && g.Crashed() {
		t.Fatalf("crash at operation %d (%s): everything succeeded without it", k, g.OpInfo(k))
	}
	return g, g.Crashed()
}

// checkImage recovers one image and holds it against the model.
func (r trial) checkImage(t *testing.T, g *crashdisk.Group, k int, image int64) {
	t.Helper()
	after := g.Image(image)
	d, p, err := recovered(r.layout, after, wal.CutPrefix)
	if err != nil {
		t.Fatalf("crash at operation %d (%s), image %d: recovery: %v", k, g.OpInfo(k), image, err)
	}
	if _, err := checkPrefix(r.all, p, image != 0); err != nil {
		t.Fatalf("crash at operation %d (%s), image %d: %v", k, g.OpInfo(k), image, err)
	}
	r.checkRaw(t, d, after, p)
	done(p)
}

// checkRaw finishes a recovered disk and compares the raw backing with what was read (P8).
func (s suite) checkRaw(t *testing.T, d *Disk, g *crashdisk.Group, want []byte) {
	t.Helper()
	if err := d.Finish(context.Background(), nil); err != nil {
		t.Fatalf("finish after recovery: %v", err)
	}
	raw := (*contents.Get().(*[]byte))
	if int64(cap(raw)) < s.disk {
		raw = make([]byte, s.disk)
	}
	raw = raw[:s.disk]
	defer done(raw)
	if _, err := g.Lookup("backing").ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(raw, want); i >= 0 {
		t.Fatalf("raw backing differs from the disk at byte %d", i)
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// TestCrashInRecovery is I5: the power goes again at every operation of a recovery and of the
// checkpoint behind it. Once Open has returned, clients may have read what it found: from
// then on nothing of it may be lost.
func TestCrashInRecovery(t *testing.T) {
	eachSuite(t, suites(), 11, func(t *testing.T, r trial) {
		states := 0
		for k, g := range r.crashes(t, stride(t)) {
			for image := range int64(2) {
				states += r.crashRecovery(t, g, r.all, k, image)
			}
		}
		t.Logf("%d states", states)
		if states < 50 {
			t.Errorf("only %d states", states)
		}
	})
}

// stride is from which crashes of the run a recovery is crashed at each of its operations:
// all of them are about a million states. JNBD_CRASH_STRIDE=1 explores them all.
func stride(t *testing.T) int {
	if v := os.Getenv("JNBD_CRASH_STRIDE"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("JNBD_CRASH_STRIDE=%q, want a number from 1 on", v)
		}
		return n
	}
	if testing.Short() {
		return 53
	}
	return 29
}

func (s suite) crashRecovery(t *testing.T, g *crashdisk.Group, all []*client, k int, image int64) (states int) {
	t.Helper()
	for r := 1; ; r++ {
		second := g.Image(image)
		second.CrashAt(r)
		var served []byte
		d, err := Open(s.parts(second), Options{})
		if err == nil {
			if served, err = content(d); err != nil {
				served = nil // it crashed in between
				abandon(d)
			} else {
				err = d.Finish(context.Background(), nil)
			}
		}
		if !second.Crashed() {
			if err != nil {
				t.Fatalf("crash at %d, image %d, recovery without a crash: %v", k, image, err)
			}
			return states
		}
		for again := range int64(2) {
			what := fmt.Sprintf("crash at operation %d (%s), image %d, again at operation %d of recovery (%s), image %d",
				k, g.OpInfo(k), image, r, second.OpInfo(r), again)
			third, p, err := recovered(s.layout, second.Image(again), wal.CutPrefix)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			abandon(third)
			if _, err := checkPrefix(all, p, image != 0 || again != 0); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if served != nil {
				if i := firstDifference(p, served); i >= 0 {
					t.Fatalf("%s: byte %d is not what the first recovery served", what, i)
				}
			}
			done(p)
			states++
		}
		if served != nil {
			done(served)
		}
	}
}

// TestCutAtBarrier is P4's --recover=barrier: what is left is the state at some barrier, at
// least the last that was answered. In this workload of one client every barrier of the run
// ends with a flush, a FUA write, or comes from the checkpointer or from opening.
func TestCutAtBarrier(t *testing.T) {
	s := suite{layout: layout{disk: 1 << 20, journal: logStart + 2<<20}, clients: 1, requests: 60, most: 8 << 10}
	base := formatted(t, s.layout)
	all := workload(42, s.clients, s.disk, s.least, s.most, s.requests)
	// The log is large enough that no checkpoint makes a barrier of its own.
	barriers := map[int]bool{0: true}
	changes := 0
	for i := range all[0].ops {
		o := &all[0].ops[i]
		if o.changes() {
			changes++
		}
		if o.kind == opFlush || o.fua {
			barriers[changes] = true
		}
	}
	cuts := map[int]bool{}
	for k := 1; ; k++ {
		reset(all)
		g := base.KillImage()
		g.CrashAt(k)
		d, err := Open(s.parts(g), Options{})
		if err == nil {
			err = run(d, all)
			g.Crash()
			abandon(d)
		}
		if err == nil {
			break
		}
		for image := range int64(4) {
			d, p, err := recovered(s.layout, g.Image(image), wal.CutBarrier)
			if err != nil {
				t.Fatalf("crash at %d, image %d: %v", k, image, err)
			}
			abandon(d)
			at, err := checkPrefix(all, p, true)
			done(p)
			if err != nil {
				t.Fatalf("crash at %d, image %d: %v", k, image, err)
			}
			if !barriers[at[0]] && !sameState(all[0], at[0], barriers) {
				t.Fatalf("crash at %d, image %d: cut after %d changes, which is no barrier", k, image, at[0])
			}
			cuts[at[0]] = true
		}
	}
	if len(cuts) < 5 {
		t.Errorf("only %d different cuts were seen", len(cuts))
	}
}

// sameState reports whether some barrier has the very content of prefix at.
func sameState(c *client, at int, barriers map[int]bool) bool {
	for b := range barriers {
		if c.states[b] == c.states[at] {
			return true
		}
	}
	return false
}

// TestErrorAtEveryOperation is P9: each operation of a run fails once, with the caches doing
// what kernels do then. The failure must be told, nothing may be acknowledged as durable after
// it, what is read is right or an error, and a restart finds what was acknowledged. If it does
// not find all that was replied to, it is another incarnation, also in the same run of the
// host's kernel.
//
// Where it is a write that a full host refuses, to a home, a spare slot or the stored state, no
// client notices anything (hostfull.go).
func TestErrorAtEveryOperation(t *testing.T) {
	for _, fault := range []crashdisk.FlushFault{crashdisk.KeepPages, crashdisk.EvictPages} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			for seed, s := range suites() {
				switch {
				case s.mode == jsuper.Auto && fault == crashdisk.EvictPages:
					s.requests *= 2
				case s.clients > 1 || s.most > 64<<10:
					continue // one client on the small layouts; the mode is what matters
				}
				if cause == syscall.ENOSPC && fault == crashdisk.EvictPages {
					continue // a flush fails alike, whatever the cause
				}
				t.Run(fmt.Sprintf("%s-%v-%d", s, cause, fault), func(t *testing.T) {
					trial := s.ready(t, seed+21)
					failures := 0
					refused := 0
					lost := 0
					for k, more := 1, true; more; k++ {
						synctest.Test(t, func(t *testing.T) { // who waits for a full host waits for ticks
							var told, missed bool
							more, told, missed = trial.failAt(t, k, cause, fault)
							if more {
								failures++
							}
							if more && !told {
								refused++
							}
							if missed {
								lost++
							}
						})
					}
					t.Logf("%d failures, %d of them lost what was replied to", failures, lost)
					if failures < 100 || cause == syscall.ENOSPC && refused < 20 {
						t.Errorf("only %d operations to fail, and %d for a full host to refuse", failures, refused)
					}
					if fault == crashdisk.EvictPages && lost < 2 {
						t.Errorf("only %d failures lost what was replied to", lost)
					}
				})
			}
		}
	}
}

// failAt runs the workload with operation k failing. It reports whether there was one, whether
// that is an error that must be told, and whether writes that were replied to were gone behind it.
func (r trial) failAt(t *testing.T, k int, cause error, fault crashdisk.FlushFault) (failed, told, lost bool) {
	t.Helper()
	s, all := r.suite, r.all
	reset(all)
	g := r.base.KillImage()
	g.SetFlushFault(fault)
	g.FailAt(k, cause)
	what := func() string { return fmt.Sprintf("operation %d (%s) fails with %v", k, g.OpInfo(k), cause) }

	d, err := Open(s.parts(g), Options{BootID: thisBoot, UnflushedBulk: r.flushed})
	var incarnation uint64
	if err == nil {
		incarnation, _ = d.Incarnation()
		err = run(d, all)
		if err == nil {
			err = d.Checkpoint(context.Background(), nil)
		}
		if refusedAt(d, g, k, cause) {
			s.checkRefused(t, d, g, all, err, what())
			return true, false, false
		}
		if err == nil {
			err = d.Close(context.Background())
		} else {
			s.checkPoisoned(t, d, all, what())
		}
	}
	if !g.Failed() {
		if err != nil {
			t.Fatalf("%s: but it never happened, and yet: %v", what(), err)
		}
		return false, false, false
	}
	if d != nil && refusedAt(d, g, k, cause) {
		return true, false, false // it was close's; the disk is as after a kill
	}
	if err == nil {
		t.Fatalf("%s: and nobody said so", what())
	}
	if !errors.Is(err, cause) {
		t.Fatalf("%s: told as %q", what(), err)
	}
	// The machine is restarted: first the process alone, then the power.
	for image := range int64(2) {
		after := g.Image(image)
		d, p, err := restarted(s.layout, after, bootAfter(image))
		if err != nil {
			t.Fatalf("%s: restart, image %d: %v", what(), image, err)
		}
		missing := missedBy(d, all, p, incarnation)
		// What was read is promised, also where the kernel took it for clean (trap 2).
		s.checkKept(t, after.Image(crashdisk.SeedLost), p, what())
		abandon(d)
		if _, err := checkPrefix(all, p, true); err != nil {
			t.Fatalf("%s: restart, image %d: %v", what(), image, err)
		}
		if missing.unsaid() {
			t.Fatalf("%s: restart, image %d: the incarnation stays, and yet: %v", what(), image, missing.err)
		}
		lost = lost || image == crashdisk.SeedKill && missing.err != nil
		done(p)
	}
	return true, true, lost
}

// The runs of the host's kernel in these tests.
var thisBoot, nextBoot = [16]byte{1}, [16]byte{2}

// bootAfter is the run of the kernel that finds an image.
func bootAfter(image int64) [16]byte {
	if image == crashdisk.SeedKill {
		return thisBoot
	}
	return nextBoot
}

// missed is what a client finds that was cut off from one disk, and comes back to another.
type missed struct {
	err  error // what is missing of that which was replied to, or nil
	same bool  // it is told that it is the same incarnation
}

// missedBy compares d, which reads as p, with what its clients were replied to in an incarnation.
func missedBy(d *Disk, all []*client, p []byte, incarnation uint64) missed {
	_, err := checkPrefix(all, p, false)
	now, _ := d.Incarnation()
	return missed{err, now == incarnation}
}

// unsaid reports whether a client would go on over writes that are gone.
func (m missed) unsaid() bool { return m.err != nil && m.same }

// refusedAt reports whether operation k was a write that a full host may refuse without harm:
// not one of the log or the superblock, which have their space.
func refusedAt(d *Disk, g *crashdisk.Group, k int, cause error) bool {
	if !g.Failed() || cause != syscall.ENOSPC {
		return false
	}
	name, kind, off, _ := g.Op(k)
	if kind == "flush" {
		return false
	}
	sb := &d.opened
	if name == "backing" && off < sb.DiskBytes {
		return true
	}
	return sb.StateOffset != 0 && off >= sb.StateOffset && off < sb.SpareOffset+sb.SpareBytes
}

// checkRefused: after a write that a full host refused everything is as it should be, and a
// restart is of the same incarnation. err is the last checkpoint's, which alone may have failed
// with it.
func (s suite) checkRefused(t *testing.T, d *Disk, g *crashdisk.Group, all []*client, err error, what string) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrHostFull) {
		t.Fatalf("%s: %v", what, err)
	}
	if _, err := checkPrefix(all, mustRead(t, d), false); err != nil {
		t.Fatalf("%s: served: %v", what, err)
	}
	incarnation, _ := d.Incarnation()
	for image := range int64(2) {
		after := g.Image(image)
		again, p, err := restarted(s.layout, after, bootAfter(image))
		if err != nil {
			t.Fatalf("%s: restart, image %d: %v", what, image, err)
		}
		if _, err := checkPrefix(all, p, image != 0); err != nil {
			t.Fatalf("%s: restart, image %d: %v", what, image, err)
		}
		if now, _ := again.Incarnation(); (now == incarnation) != (image == crashdisk.SeedKill) {
			t.Fatalf("%s: restart, image %d: incarnation %#x after %#x", what, image, now, incarnation)
		}
		s.checkRaw(t, again, after, p)
		done(p)
	}
	want := mustRead(t, d)
	s.checkRaw(t, d, g, want)
}

// mustRead is all that the disk reads as.
func mustRead(t *testing.T, d *Disk) []byte {
	t.Helper()
	p, err := content(d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// checkKept recovers a machine that must read as want.
func (s suite) checkKept(t *testing.T, g *crashdisk.Group, want []byte, what string) {
	t.Helper()
	d, p, err := recovered(s.layout, g, wal.CutPrefix)
	if err != nil {
		t.Fatalf("%s: restart, then power loss: %v", what, err)
	}
	abandon(d)
	if i := firstDifference(p, want); i >= 0 {
		t.Fatalf("%s: restart, then power loss: byte %d is not what the restart served", what, i)
	}
	done(p)
}

// checkPoisoned: after a failure nothing can be changed, and every read is right or fails. The
// superblock says what has happened, because nothing else fails.
func (s suite) checkPoisoned(t *testing.T, d *Disk, all []*client, what string) {
	t.Helper()
	defer func() {
		if err := d.Close(context.Background()); !errors.Is(err, ErrPoisoned) || errors.Is(err, ErrIncarnationStays) {
			t.Fatalf("%s: close answers %v", what, err)
		}
	}()
	d.checkpointMu.Lock() // a batch that was under way when it happened is over
	before := d.Stats()
	d.checkpointMu.Unlock()
	if err := d.WriteBatch([][]byte{{1}}, []int64{0}, false, nil); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("%s: a later write answers %v", what, err)
	}
	if err := d.Sync(); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("%s: a later flush answers %v", what, err)
	}
	if err := d.Checkpoint(context.Background(), nil); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("%s: a later checkpoint answers %v", what, err)
	}
	if after := d.Stats(); after.DurableUpTo != before.DurableUpTo || after.Tail != before.Tail {
		t.Fatalf("%s: tail %d → %d, durable %d → %d after it (I9)", what, before.Tail, after.Tail, before.DurableUpTo, after.DurableUpTo)
	}
	c := all[0]
	sent := c.atMost()
	want := make([]byte, c.size)
	var last *op
	for _, at := range c.changes[:sent] {
		o := &c.ops[at]
		if o.replied == 0 {
			last = o // it failed: its bytes may be there or not
			continue
		}
		o.apply(want, c.off)
	}
	got := make([]byte, 4096)
	for off := c.off; off+4096 <= c.off+c.size; off += 4096 {
		if last != nil && last.off < off+4096 && off < last.off+last.n {
			continue
		}
		if _, err := d.ReadAt(got, off); err != nil {
			continue
		}
		if i := firstDifference(got, want[off-c.off:off-c.off+4096]); i >= 0 {
			t.Fatalf("%s: poisoned disk reads byte %d wrong, without an error", what, off+int64(i))
		}
	}
}
