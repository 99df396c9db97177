package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// How an incarnation ends with a failure, where TestErrorAtEveryOperation does not look: in a
// recovery, with a second failure or a crash on the way, and on a medium that hangs.

// smallSuites are the cheap ones, of one client.
func smallSuites() (list []suite) {
	for _, s := range suites() {
		if s.clients == 1 && s.most <= 64<<10 {
			list = append(list, s)
		}
	}
	return list
}

// endingStride is as stride; what is done at each operation here is little.
func endingStride(t *testing.T) int { return max(1, stride(t)/10) }

// TestErrorInRecovery: the process dies with writes unflushed, and an operation of the recovery
// fails. The next recovery finds all that was replied to, or another incarnation.
func TestErrorInRecovery(t *testing.T) {
	eachSuite(t, smallSuites(), 31, func(t *testing.T, trial trial) {
		states, lost := 0, 0
		for k, g := range trial.crashes(t, endingStride(t)) {
			for r := 1; ; r++ {
				failed, missed := trial.failRecovery(t, g, trial.all, k, r)
				if !failed {
					break
				}
				states++
				if missed {
					lost++
				}
			}
		}
		t.Logf("%d states, %d of them lost what was replied to", states, lost)
		if states < 50 || lost < 2 {
			t.Errorf("only %d states, and %d lost what was replied to", states, lost)
		}
	})
}

// failRecovery recovers g, which crashed at operation k, with operation r of that failing. It
// reports whether there was one, and whether the next recovery misses what was replied to.
func (s suite) failRecovery(t *testing.T, g *crashdisk.Group, all []*client, k, r int) (failed, lost bool) {
	t.Helper()
	reader, err := Open(s.parts(g.KillImage()), Options{ReadOnly: true, BootID: thisBoot})
	if err != nil {
		t.Fatal(err)
	}
	incarnation, _ := reader.Incarnation()
	second := g.KillImage()
	second.SetFlushFault(crashdisk.EvictPages)
	second.FailAt(r, syscall.EIO)
	what := fmt.Sprintf("killed at operation %d (%s), operation %d of recovery (%s) fails", k, g.OpInfo(k), r, second.OpInfo(r))
	first, err := Open(s.parts(second), Options{BootID: thisBoot})
	if err == nil {
		abandonQuietly(first)
		return false, false
	}
	if !errors.Is(err, syscall.EIO) {
		t.Fatalf("%s: told as %q", what, err)
	}
	d, p, err := restarted(s.layout, second.KillImage(), thisBoot)
	if err != nil {
		t.Fatalf("%s: restart: %v", what, err)
	}
	defer done(p)
	missing := missedBy(d, all, p, incarnation)
	abandonQuietly(d)
	if missing.unsaid() {
		t.Fatalf("%s: the incarnation stays, and yet: %v", what, missing.err)
	}
	if _, err := checkPrefix(all, p, true); err != nil {
		t.Fatalf("%s: restart: %v", what, err)
	}
	return true, missing.err != nil
}

// TestSecondFailure: an operation fails, and behind it another one does as well, or the power
// goes, until the incarnation has ended. What was flushed is there.
func TestSecondFailure(t *testing.T) {
	eachSuite(t, smallSuites(), 41, func(t *testing.T, trial trial) {
		states := 0
		for k := 1; ; k += endingStride(t) {
			more, failed := true, false
			for next := k + 1; more; next++ {
				for _, crash := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) { failed, more = trial.failTwice(t, k, next, crash) })
					states++
				}
			}
			if !failed {
				break
			}
		}
		t.Logf("%d states", states)
		if states < 100 {
			t.Errorf("only %d states", states)
		}
	})
}

// failTwice runs the workload with operation k failing, and another one crashing or failing. It
// reports whether there was an operation k, and whether there was the other.
func (r trial) failTwice(t *testing.T, k, next int, crash bool) (failed, more bool) {
	t.Helper()
	s, all := r.suite, r.all
	reset(all)
	g := r.base.KillImage()
	g.SetFlushFault(crashdisk.EvictPages)
	g.FailAt(k, syscall.EIO)
	if crash {
		g.CrashAt(next)
	} else {
		g.FailAt(next, syscall.EIO)
	}
	d, err := Open(s.parts(g), Options{BootID: thisBoot})
	if err == nil {
		err = run(d, all)
		err = errors.Join(err, d.Close(context.Background()))
	}
	if !g.Failed() {
		return false, false
	}
	what := fmt.Sprintf("operations %d (%s) and %d (%s) fail", k, g.OpInfo(k), next, g.OpInfo(next))
	if err == nil {
		t.Fatalf("%s: and nobody said so", what)
	}
	for image := range int64(4) {
		after := g.Image(image)
		d, p, err := restarted(s.layout, after, bootAfter(image))
		if err != nil {
			t.Fatalf("%s: restart, image %d: %v", what, image, err)
		}
		abandonQuietly(d)
		if _, err := checkPrefix(all, p, true); err != nil {
			t.Fatalf("%s: restart, image %d: %v", what, image, err)
		}
		done(p)
	}
	return true, g.Ops() >= next
}

// TestEndingHangs: the medium of the journal hangs behind a failed flush. Who asked for the flush
// has its answer, and the close does not wait for ever; both times somebody is told.
func TestEndingHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, tiny, Options{BootID: thisBoot})
		write(t, d, pattern(1, 1000), 0)
		resume := make(chan struct{})
		failed := false
		g.OnOp(func(k int, operation string) {
			if failed {
				<-resume
			}
			if operation == "flush journal" {
				failed = true
				g.FailAt(k, syscall.EIO)
			}
		})
		began := time.Now()
		if err := d.Sync(); !errors.Is(err, ErrPoisoned) || time.Since(began) != 0 {
			t.Errorf("a flush that fails answers %v after %v", err, time.Since(began))
		}
		err := d.Close(context.Background())
		if !errors.Is(err, ErrPoisoned) || !errors.Is(err, ErrIncarnationStays) {
			t.Errorf("close answers %v", err)
		}
		if took := time.Since(began); took != endingTime {
			t.Errorf("close took %v, want %v", took, endingTime)
		}
		g.OnOp(nil)
		close(resume)
		synctest.Wait()
	})
}

// TestEndingFails: the superblock can't be written either. Close says what that means.
func TestEndingFails(t *testing.T) {
	d, g := opened(t, tiny, Options{BootID: thisBoot})
	write(t, d, pattern(1, 1000), 0)
	failed := false
	g.OnOp(func(k int, operation string) {
		if failed = failed || operation == "flush journal"; failed {
			g.FailAt(k, syscall.EIO)
		}
	})
	if err := d.Sync(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("a flush that fails answers %v", err)
	}
	err := d.Close(context.Background())
	if !errors.Is(err, ErrIncarnationStays) || !strings.Contains(err.Error(), "save superblock") {
		t.Errorf("close answers %v", err)
	}
}

// TestFullHostKeepsTheIncarnation: writers that wait for a full host have lost nothing, and a
// recovery that it refuses hasn't either.
func TestFullHostKeepsTheIncarnation(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		l := tiny
		l.mode = jsuper.Ordered
		d, g := opened(t, l, Options{BootID: thisBoot})
		before, _ := d.Incarnation()
		write(t, d, pattern(1, 8192), 8192) // once: recovery writes it again
		after := g.KillImage()
		abandonQuietly(d)
		after.FailAt(1, cause)
		if _, err := Open(l.parts(after), Options{BootID: thisBoot}); !errors.Is(err, cause) {
			t.Fatalf("recovery whose first write fails with %v: %v", cause, err)
		}
		name, kind, off, _ := after.Op(1)
		if name != "backing" || kind != "write" || off != 8192 {
			t.Fatalf("the first operation of recovery is %s", after.OpInfo(1))
		}
		d, err := Open(l.parts(after), Options{BootID: thisBoot})
		if err != nil {
			t.Fatal(err)
		}
		if now, _ := d.Incarnation(); (now == before) != (cause == syscall.ENOSPC) {
			t.Errorf("after %v: incarnation %#x after %#x", cause, now, before)
		}
		abandonQuietly(d)
	}
}
