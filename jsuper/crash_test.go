package jsuper

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
)

// imagesPerCrash is how many outcomes of each crash are looked at.
const imagesPerCrash = 24

// step is a superblock that differs from its neighbours in several sectors of its slot, so
// that every torn mixture of two of them shows.
func step(n int) *Superblock {
	sb := sample()
	sb.Tail += int64(n) * 512
	sb.DurableUpTo += int64(n) * 512
	for i := range sb.Fingerprint.Blocks {
		sb.Fingerprint.Blocks[i].CRC += uint32(n)
	}
	return sb
}

// life saves steps from to to-1, loading first where there is something. It returns the
// number of saves that returned nil, and the error that ended it.
func life(g *crashdisk.Group, from, to int) (done int, err error) {
	s := NewStore(g.Disk("journal", sampleDevice), Beside)
	if from > 0 {
		if _, err := s.Load(); err != nil {
			return 0, fmt.Errorf("load: %w", err)
		}
	}
	for n := from; n < to; n++ {
		if err := s.Save(step(n)); err != nil {
			return n - from, err
		}
	}
	return to - from, nil
}

// expectStep loads what is on the group's disk: the newest step must be one of least to
// most, whole. least -1 means that there need not be any. It returns the step found, or -1.
func expectStep(t *testing.T, g *crashdisk.Group, least, most int, where string) int {
	t.Helper()
	sb, err := Probe(g.Disk("journal", sampleDevice), Beside)
	if err != nil {
		// The very first save may be torn: then no journal was ever promised.
		if least >= 0 || !errors.Is(err, ErrNoJournal) && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s: %v, want step %d to %d", where, err, least, most)
		}
		return -1
	}
	n := int((sb.Tail - sample().Tail) / 512)
	want := step(n)
	want.Generation = sb.Generation
	if n < least || n > most || *sb != *want {
		t.Fatalf("%s: step %d, want one of %d to %d, whole", where, n, least, most)
	}
	return n
}

// TestCrashAtEveryOperation: crash at each operation of a journal's life, look at many
// images, go on from each one, crash again at each operation of that, and look again.
// What was saved, or is being saved, is found; never less.
func TestCrashAtEveryOperation(t *testing.T) {
	const saves = 4
	for k := 1; ; k++ {
		g := crashdisk.NewGroup(int64(k))
		g.CrashAt(k)
		done, err := life(g, 0, saves)
		if err == nil {
			if k < 2*saves {
				t.Fatalf("%d operations in all, want at least %d", g.Ops(), 2*saves)
			}
			return
		}
		if !errors.Is(err, crashdisk.ErrCrashed) {
			t.Fatalf("crash at %d: %v", k, err)
		}
		for seed, image := range g.Images(imagesPerCrash) {
			where := fmt.Sprintf("crash at %d (%s), image %d", k, g.OpInfo(k), seed)
			found := expectStep(t, image, done-1, done, where)
			if found < 0 {
				continue
			}
			crashAgain(t, g, seed, found, where)
		}
	}
}

// crashAgain goes on from an image whose newest step is found, crashing at each operation.
func crashAgain(t *testing.T, g *crashdisk.Group, first int64, found int, where string) {
	t.Helper()
	const more = 2
	for k := 1; ; k++ {
		image := g.Image(first)
		image.CrashAt(k)
		done, err := life(image, found+1, found+1+more)
		if err == nil {
			return
		}
		if !errors.Is(err, crashdisk.ErrCrashed) {
			t.Fatalf("%s, then crash at %d: %v", where, k, err)
		}
		least := found + done
		if first == crashdisk.SeedKill && done == 0 && k <= 2 {
			// The process had died with its save unflushed. Until that is written and
			// flushed anew, power loss may take it.
			least = found - 1
		}
		for seed, again := range image.Images(imagesPerCrash) {
			expectStep(t, again, least, found+done+1, fmt.Sprintf("%s, then crash at %d (%s), image %d", where, k, image.OpInfo(k), seed))
		}
	}
}

// TestErrorAtEveryOperation: each operation fails in turn. The save says so, the process
// ends, a new one goes on from what it reads, and the power goes during that. A save that
// returned is never lost, although a failed flush leaves pages that only look clean.
func TestErrorAtEveryOperation(t *testing.T) {
	const saves = 4
	for _, fault := range []crashdisk.FlushFault{crashdisk.KeepPages, crashdisk.EvictPages} {
		for k := 1; k <= 2*saves; k++ {
			for crash := 1; crash <= 6; crash++ {
				for seed := range int64(imagesPerCrash) {
					g := crashdisk.NewGroup(seed)
					g.SetFlushFault(fault)
					g.FailAt(k, syscall.EIO)
					done, err := life(g, 0, saves)
					if !errors.Is(err, syscall.EIO) {
						t.Fatalf("operation %d fails, and the save says: %v", k, err)
					}
					where := fmt.Sprintf("fault %d at %d (%s), crash at %d more, seed %d", fault, k, g.OpInfo(k), crash, seed)
					// The same machine, so what reads see is the cache, not the medium.
					found := expectStep(t, g, done-1, done, where)
					if found < 0 {
						continue
					}
					g.CrashAt(g.Ops() + crash)
					again, err := life(g, found+1, found+1+2)
					if err == nil {
						g.Crash()
					}
					expectStep(t, g.Image(seed+2), max(done-1, lastDone(found, again)), found+again+1, where)
				}
			}
		}
	}
}

// lastDone is the newest step that a new process has saved on top of found, or -1 if none:
// what it merely found need not have been durable.
func lastDone(found, saves int) int {
	if saves == 0 {
		return -1
	}
	return found + saves
}

// TestForgetBoot: a save fails, or the next process has only loaded; then the boot is forgotten,
// and the power goes at each operation of that. What was saved is found, and without the boot
// once it was forgotten; no later save is made.
func TestForgetBoot(t *testing.T) {
	const saves = 4
	for _, fault := range []crashdisk.FlushFault{crashdisk.KeepPages, crashdisk.EvictPages} {
		for k := 3; k <= 2*saves; k++ { // operations 1 and 2 are the first save
			for _, reload := range []bool{false, true} {
				for crash, more := 1, true; more; crash++ {
					g := crashdisk.NewGroup(int64(k))
					g.SetFlushFault(fault)
					g.FailAt(k, syscall.EIO)
					more = forgetBoot(t, g, saves, reload, crash)
				}
			}
		}
	}
}

// forgetBoot is one life of that. It reports whether it had an operation to crash at.
func forgetBoot(t *testing.T, g *crashdisk.Group, saves int, reload bool, crash int) bool {
	t.Helper()
	boot := [16]byte{1}
	dev := disk.FailStop(g.Disk("journal", sampleDevice))
	s := NewStore(dev, Beside)
	done := 0
	for ; done < saves; done++ {
		sb := step(done)
		sb.Incompat, sb.Incarnation, sb.BootID = FeatureIncarnation, 1, boot
		if s.Save(sb) != nil {
			break
		}
	}
	if reload {
		s = NewStore(dev, Beside)
		if _, err := s.Load(); err != nil {
			t.Fatal(err)
		}
	}
	g.CrashAt(g.Ops() + crash)
	err := s.ForgetBoot(disk.Stop(dev, syscall.EIO), syscall.EIO)
	if (err == nil) == g.Crashed() {
		t.Fatalf("crashed %v, and ForgetBoot answers %v", g.Crashed(), err)
	}
	ops := g.Ops()
	if s.Save(step(done)) == nil || g.Ops() != ops {
		t.Fatalf("a save went on after ForgetBoot: %s", g.OpInfo(g.Ops()))
	}
	for seed, image := range g.Images(imagesPerCrash) {
		got, probed := Probe(image.Disk("journal", sampleDevice), Beside)
		if probed != nil {
			t.Fatalf("%d saves, reload %v, crash %d, image %d: %v", done, reload, crash, seed, probed)
		}
		n := int((got.Tail - sample().Tail) / 512)
		want := step(n)
		want.Generation, want.Incompat, want.Incarnation, want.BootID = got.Generation, FeatureIncarnation, 1, got.BootID
		forgotten := got.BootID == [16]byte{}
		if n < done-1 || n > done || *got != *want || !forgotten && (got.BootID != boot || err == nil) {
			t.Fatalf("%d saves, reload %v, crash %d, image %d: step %d, %+v", done, reload, crash, seed, n, got)
		}
	}
	return g.Crashed()
}

// TestForgetBootOnlyOfDirty: what was closed in order has lost nothing, and a superblock that
// nobody has saved or loaded says nothing.
func TestForgetBootOnlyOfDirty(t *testing.T) {
	for _, state := range []State{0, Clean, Closed} {
		dev := &recorder{Device: disk.NewMem(sampleDevice)}
		s := NewStore(dev, Beside)
		sb := sample()
		sb.Incompat, sb.Incarnation, sb.BootID, sb.State = FeatureIncarnation, 1, [16]byte{1}, state
		if state == Closed {
			sb.DurableUpTo = sb.Tail
		}
		if state != 0 {
			if err := s.Save(sb); err != nil {
				t.Fatal(err)
			}
		}
		ops := len(dev.ops)
		if err := s.ForgetBoot(dev, syscall.EIO); err != nil || len(dev.ops) != ops {
			t.Errorf("state %s: %v, after %q", state, err, dev.ops[ops:])
		}
	}
}
