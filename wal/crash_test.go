package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
)

// crashRun is a workload on a log whose power or process may end at any operation. What it
// was promised is kept beside it, as clients and the superblock would know it.
type crashRun struct {
	size     int64
	opt      Options
	start    Start  // in the superblock
	needed   uint64 // requests from this one on are not home
	appended uint64 // requests below it were appended: Append returned
	entered  uint64 // requests below it were handed to Append
	flushed  uint64 // requests below it were flushed
	ends     map[uint64]int64
}

// run does steps steps from seed on, on a device that may crash under it.
func (c *crashRun) run(dev disk.Device, l *Log, seed uint64, steps int) error {
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range steps {
		var err error
		switch k := rnd.IntN(100); {
		case k < 62:
			err = c.append(l, rnd)
		case k < 88:
			covered := c.appended
			if _, err = l.Flush(); err == nil {
				c.flushed = max(c.flushed, covered)
			}
		default:
			err = c.free(l, rnd)
		}
		if errors.Is(err, ErrFull) {
			covered := c.appended
			if _, err = l.Flush(); err == nil {
				c.flushed = max(c.flushed, covered)
				err = c.freeTo(l, l.TailBefore(l.Stats().Head))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *crashRun) append(l *Log, rnd *rand.Rand) error {
	n := c.appended
	var recs []Record
	for i := range uint64(1 + rnd.IntN(3)) {
		recs = append(recs, numbered(n+i, modelSizes(rnd, l.MaxRecordPayload())...)...)
		c.entered = max(c.entered, n+i+1)
	}
	pos := make([]int64, len(recs))
	write := l.Append
	if rnd.IntN(3) == 0 {
		write = l.AppendBarrier
	}
	if err := write(recs, pos); err != nil {
		if errors.Is(err, ErrFull) {
			c.entered = c.appended
		}
		return err
	}
	for i := range recs {
		c.ends[recs[i].A] = pos[i] + int64(len(recs[i].Payload))
	}
	c.appended = c.entered
	return nil
}

func (c *crashRun) free(l *Log, rnd *rand.Rand) error {
	s := l.Stats()
	return c.freeTo(l, l.TailBefore(s.Tail+1+rnd.Int64N(s.Head-s.Tail+1)))
}

func (c *crashRun) freeTo(l *Log, tail int64) error {
	start, err := l.StartAt(tail)
	if err != nil {
		return err
	}
	c.start = start
	for c.needed < c.appended && c.ends[c.needed] <= tail {
		c.needed++
	}
	return l.Free(tail)
}

// check scans an image and holds what it finds against the promises. It returns the scan.
func (c *crashRun) check(dev disk.Device, cut Cut, atLeast uint64) (*ScanResult, uint64, error) {
	geo, err := geometryOf(dev)
	if err != nil {
		return nil, 0, err
	}
	rd := &reader{dev: dev, geo: geo, ends: map[uint64]int64{}, full: true}
	r, err := Scan(dev, ScanOptions{Start: c.start, Cut: cut}, rd.visit)
	if err != nil {
		return nil, 0, err
	}
	next := c.needed
	if first, last, ok := rd.span(); ok {
		if first > c.needed {
			return nil, 0, fmt.Errorf("first request kept is %d, from %d on they are needed", first, c.needed)
		}
		next = max(next, last+1)
	}
	if next < atLeast {
		return nil, 0, fmt.Errorf("kept requests below %d, those below %d were promised; %+v", next, atLeast, r.Dropped)
	}
	if next > c.entered {
		return nil, 0, fmt.Errorf("kept requests below %d, only those below %d were ever made", next, c.entered)
	}
	if rd.inReq {
		return nil, 0, fmt.Errorf("kept part of request %d", next)
	}
	return r, next, nil
}

func startRun(size int64, opt Options) (*crashRun, *crashdisk.Group, *crashdisk.Disk) {
	g := crashdisk.NewGroup(1)
	return &crashRun{size: size, opt: opt, ends: map[uint64]int64{}}, g, g.Disk("log", size)
}

// begin opens the log on dev.
func (c *crashRun) begin(dev disk.Device) (*Log, error) {
	r, err := Scan(dev, ScanOptions{Start: c.start}, nil)
	if err != nil {
		return nil, err
	}
	return Continue(dev, r, c.opt)
}

// TestCrashEverywhere crashes a workload at each of its operations, looks at images of
// each crash, recovers each, crashes some of the recoveries at each operation too, and goes
// on working after that.
func TestCrashEverywhere(t *testing.T) {
	for _, c := range []struct {
		name string
		seed uint64
		opt  Options
	}{
		{"explicit flushes", 1, Options{SoftFlushBytes: 1 << 40}},
		{"another order", 2, Options{SoftFlushBytes: 1 << 40}},
		{"soft flushes", 3, Options{SoftFlushBytes: 24 << 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for k := 1; ; k += 1 + thin {
				if k > 5000 {
					t.Fatal("it never gets through")
				}
				if !crashAt(t, c.seed, c.opt, k) {
					t.Logf("%d operations", k)
					return
				}
			}
		})
	}
}

const crashSteps = 90

// crashAt reports whether the workload crashed at operation k.
func crashAt(t *testing.T, seed uint64, opt Options, k int) bool {
	t.Helper()
	run, g, dev := startRun(MinLogBytes, opt)
	g.CrashAt(k)
	l, err := run.begin(dev)
	if err == nil {
		err = run.run(dev, l, seed, crashSteps)
		closeLog(t, l)
	}
	if err == nil && run.start.Tail < MinLogBytes/2 {
		t.Fatalf("the tail has come to %#x only", run.start.Tail)
	}
	if err != nil && !g.Crashed() {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for image := range int64(6) {
		after := g.Image(image)
		atLeast := run.flushed
		if image == crashdisk.SeedKill {
			atLeast = run.appended
		}
		cut := CutPrefix
		if image == 5 {
			cut, atLeast = CutBarrier, run.flushed
		}
		if err := recoverImage(t, run, after, cut, atLeast, k%16 < 1+thin && image < 3, seed); err != nil {
			t.Fatalf("seed %d, crash at operation %d (%s), image %d: %v", seed, k, g.OpInfo(k), image, err)
		}
	}
	return err != nil
}

// recoverImage recovers a machine after a crash, crashing at each operation of the recovery
// if deep, and then works on.
func recoverImage(t *testing.T, run *crashRun, g *crashdisk.Group, cut Cut, atLeast uint64, deep bool, seed uint64) error {
	dev := g.Lookup("log")
	r, next, err := run.check(dev, cut, atLeast)
	if err != nil {
		return err
	}
	if deep {
		for j := 1; ; j++ {
			again := g.KillImage() // the same machine, not to be changed
			again.CrashAt(j)
			d := again.Lookup("log")
			l, err := Continue(d, r, run.opt)
			if err == nil {
				closeLog(t, l)
			} else if !again.Crashed() {
				return err
			}
			for image := range int64(4) {
				promised := run.flushed
				if image == crashdisk.SeedKill || err == nil {
					promised = next // nothing was lost, or it was shown to somebody
				}
				if _, _, err := run.check(again.Image(image).Lookup("log"), CutPrefix, promised); err != nil {
					return fmt.Errorf("recovery crashed at its operation %d (%s), image %d: %w", j, again.OpInfo(j), image, err)
				}
			}
			if err == nil {
				break
			}
		}
	}
	l, err := Continue(dev, r, run.opt)
	if err != nil {
		return fmt.Errorf("continue: %w", err)
	}
	defer closeLog(t, l)
	// What recovery kept is durable now; the rest never was. Work on and lose power.
	on := *run
	on.appended, on.entered, on.flushed = next, next, next
	on.ends = map[uint64]int64{}
	for n, end := range run.ends {
		on.ends[n] = end
	}
	if _, _, err := on.check(g.Image(crashdisk.SeedLost).Lookup("log"), CutPrefix, next); err != nil {
		return fmt.Errorf("after recovery: %w", err)
	}
	if err := on.run(dev, l, seed+100, 8); err != nil {
		return fmt.Errorf("work after recovery: %w", err)
	}
	for image := range int64(3) {
		if _, _, err := on.check(g.Image(image).Lookup("log"), CutPrefix, on.flushed); err != nil {
			return fmt.Errorf("crash after recovery, image %d: %w", image, err)
		}
	}
	return nil
}

// TestFailEverywhere fails each operation in turn. The failure must show, stay, and keep
// everything durable from advancing; and what a restart then shows, it must not lose again
// (the pages of a failed flush look clean).
func TestFailEverywhere(t *testing.T) {
	for _, fault := range []crashdisk.FlushFault{crashdisk.KeepPages, crashdisk.EvictPages} {
		for k := 1; ; k += 1 + thin {
			run, g, dev := startRun(MinLogBytes, Options{SoftFlushBytes: 1 << 40})
			g.SetFlushFault(fault)
			g.FailAt(k, syscall.EIO)
			l, err := run.begin(dev)
			if err == nil {
				before := l.Stats().Flushes
				err = run.run(dev, l, 4, crashSteps)
				if err != nil {
					checkFailed(t, l, err, before)
				}
				closeLog(t, l)
			}
			if err == nil {
				if g.Failed() {
					t.Fatalf("operation %d (%s) failed and nobody said so", k, g.OpInfo(k))
				}
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			restarted := g.KillImage()
			atLeast := run.flushed
			if fault == crashdisk.KeepPages {
				atLeast = run.appended
			}
			d := restarted.Lookup("log")
			r, next, err := run.check(d, CutPrefix, atLeast)
			if err != nil {
				t.Fatalf("%v: operation %d (%s) failed; restart: %v", fault, k, g.OpInfo(k), err)
			}
			l, err = Continue(d, r, run.opt)
			if err != nil {
				t.Fatal(err)
			}
			closeLog(t, l)
			if _, _, err := run.check(restarted.Image(crashdisk.SeedLost).Lookup("log"), CutPrefix, next); err != nil {
				t.Fatalf("%v: operation %d (%s) failed; restart, then power loss: %v", fault, k, g.OpInfo(k), err)
			}
		}
	}
}

// checkFailed looks whether the failure sticks.
func checkFailed(t *testing.T, l *Log, want error, flushes uint64) {
	t.Helper()
	s := l.Stats()
	for range 2 {
		if err := l.Append(numbered(1, 10), make([]int64, 1)); err != want {
			t.Errorf("append after the failure: %v, want %v", err, want)
		}
		if _, err := l.Flush(); err != want {
			t.Errorf("flush after the failure: %v, want %v", err, want)
		}
	}
	if l.Err() != want {
		t.Errorf("the log's failure is %v, want %v", l.Err(), want)
	}
	if now := l.Stats(); now != s {
		t.Errorf("after the failure the log went from %+v to %+v", s, now)
	}
}
