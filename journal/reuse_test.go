package journal

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// What may be written again, and when: log space behind the superblock, slots behind their
// readers, homes behind what the clients wrote meanwhile. Each test holds the operation that
// must come first and looks whether the other waits.

// TestFreedOnlyBehindTheSuperblock: the log gives no space away before both slots hold the
// new tail (I6).
func TestFreedOnlyBehindTheSuperblock(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		l := tiny
		l.mode = mode
		d, g := opened(t, l, Options{})
		for i := range int64(20) {
			write(t, d, pattern(uint64(i), 3000), i*4096)
		}
		old := d.log.Stats().Tail
		var saves, early atomic.Int64
		g.OnOp(func(_ int, operation string) {
			if strings.HasPrefix(operation, "write journal [0x0,") || strings.HasPrefix(operation, "write journal [0x1000,") {
				saves.Add(1)
				if d.log.Stats().Tail != old {
					early.Add(1)
				}
			}
		})
		if moved, err := d.checkpointBatch(d.batchBytes, nil); err != nil || !moved {
			t.Fatalf("checkpoint: moved %v, %v", moved, err)
		}
		g.OnOp(nil)
		if n := early.Load(); n != 0 {
			t.Errorf("mode %s: log space was given away before %d of %d saves of the superblock", mode, n, saves.Load())
		}
		if saves.Load() < 2 || d.log.Stats().Tail == old {
			t.Errorf("mode %s: %d saves of the superblock, tail from %d to %d", mode, saves.Load(), old, d.log.Stats().Tail)
		}
		closed(t, d, l, g)
	}
}

// TestEitherSlotWillDo: whichever of the superblock's slots rots, the other leads to the same
// disk, also when the log before the newest tail has been written over.
func TestEitherSlotWillDo(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		// A batch of checkpoint is an eighth of the log: more than the reserve, from this size on.
		l := layout{disk: 1 << 20, journal: logStart + 4<<20, mode: mode}
		d, g := opened(t, l, Options{})
		model := make([]byte, l.disk)
		some := func(n int64) { // about n bytes of log, in writes that take the log in every mode
			for i := range n / 4608 {
				p, off := pattern(uint64(i), 4000), i%200*4096+10
				write(t, d, p, off)
				copy(model[off:], p)
			}
		}
		if err := d.Checkpoint(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		older := d.log.Stats().Tail
		some(480_000)
		if err := d.Checkpoint(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		// Without another: the log goes around, over what is before the newest tail.
		d.checkpointMu.Lock()
		some(3_640_000)
		after := [2]*crashdisk.Group{g.KillImage(), g.KillImage()}
		if head := d.log.Stats().Head; head < older+d.opened.LogBytes {
			t.Fatalf("the log has come from %d to %d only", older, head)
		}
		d.checkpointMu.Unlock()
		for slot, after := range after {
			if _, err := after.Lookup("journal").WriteAt([]byte("rot"), int64(slot)*4096+100); err != nil {
				t.Fatal(err)
			}
			again, p, err := recovered(l, after, wal.CutPrefix)
			if err != nil {
				t.Fatalf("mode %s, slot %d damaged: %v", mode, slot, err)
			}
			if i := firstDifference(p, model); i >= 0 {
				t.Fatalf("mode %s, slot %d damaged: byte %d is wrong", mode, slot, i)
			}
			done(p)
			abandonQuietly(again)
		}
		closed(t, d, l, g)
	}
}

// TestStealWaitsForTheWriter: a checkpoint that needs a home waits for the direct write that
// is on its way there, and that write, having lost it, takes the log.
func TestStealWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, orderedLayout, Options{})
		hang := stallAt(g, "write backing")
		bulk := pattern(1, 64<<10)
		writeBeside(t, d, bulk, 0)
		<-hang.reached
		write(t, d, pattern(2, 100), 5000) // inside; it takes the log, and its place is before
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		old := d.log.Stats().Tail
		var err error
		go func() { err = d.Checkpoint(context.Background(), nil) }() // ends behind the write
		synctest.Wait()
		if tail := d.log.Stats().Tail; tail != old {
			t.Errorf("the tail went from %d to %d beside a write to the same home", old, tail)
		}
		close(hang.release)
		synctest.Wait()
		if tail := d.log.Stats().Tail; err != nil || tail == old {
			t.Errorf("behind the write the tail is still at %d: %v", tail, err)
		}
		expect(t, d, 0, bulk)
		closed(t, d, orderedLayout, g)
	})
}

// TestBytesBeforeTheirRecord: a flush beside a direct write finds no record of bytes that are
// not there yet; it would make recovery cut before what the flush promised.
func TestBytesBeforeTheirRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, orderedLayout, Options{})
		hang := stallAt(g, "write backing")
		writeBeside(t, d, pattern(1, 64<<10), 0)
		<-hang.reached
		write(t, d, pattern(2, 100), 1<<20)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		after := g.Image(crashdisk.SeedLost)
		close(hang.release)
		synctest.Wait()
		again, p, err := recovered(orderedLayout, after, wal.CutPrefix)
		if err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(p[1<<20:1<<20+100], pattern(2, 100)); i >= 0 {
			t.Error("a flushed write is lost")
		}
		done(p)
		abandonQuietly(again)
		closed(t, d, orderedLayout, g)
	})
}

// TestReaderHoldsTheLog: a reader that found a block in the log can read it there, however
// long it takes.
func TestReaderHoldsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, tiny, Options{})
		write(t, d, pattern(1, 10_000), 0)
		old := d.log.Stats().Tail
		reader := d.gate.enter()
		var err error
		go func() { err = d.Checkpoint(context.Background(), nil) }() // ends behind the reader
		synctest.Wait()
		if tail := d.log.Stats().Tail; tail != old {
			t.Errorf("the tail went from %d to %d with a reader behind it", old, tail)
		}
		d.gate.leave(reader)
		synctest.Wait()
		if tail := d.log.Stats().Tail; err != nil || tail == old {
			t.Errorf("without readers the tail is still at %d: %v", tail, err)
		}
		closed(t, d, tiny, g)
	})
}

// TestReaderHoldsTheSlot: a spare slot that a reader found is not written again before the
// reader is through, although the block has left it durably.
func TestReaderHoldsTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, orderedLayout, Options{})
		displace(t, d, 0, 64<<10)
		reader := d.gate.enter()
		if err := d.Trim(0, 64<<10, nil); err != nil {
			t.Fatal(err)
		}
		held := d.once.state.Stats().Quarantined
		if held == 0 {
			t.Fatal("nothing is in quarantine")
		}
		// Of two barriers the second one's frame says that the first is durable. The flush then
		// wakes the checkpointer, which takes what may leave quarantine.
		for i := range int64(2) {
			write(t, d, pattern(9, 512), 1<<20+i*512)
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if now := d.once.state.Stats().Quarantined; now != held {
			t.Errorf("%d slots left quarantine with a reader in them", held-now)
		}
		d.gate.leave(reader)
		synctest.Wait()
		if now := d.once.state.Stats().Quarantined; now != 0 {
			t.Errorf("without readers %d slots are still in quarantine", now)
		}
		closed(t, d, orderedLayout, g)
	})
}

// TestWrittenWhileBroughtHome: a block that a client writes again while it is on its way home
// is what the client wrote, also after a restart.
func TestWrittenWhileBroughtHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, orderedLayout, Options{})
		displace(t, d, 0, 64<<10)
		leaveQuarantine(t, d, 3<<20)
		hang := stallAt(g, "write backing")
		var err error
		go func() { _, err = d.homeBatch(closeBatch, nil) }() // ends when it is let go on
		<-hang.reached
		newest := pattern(3, 64<<10)
		write(t, d, newest, 0)
		close(hang.release)
		synctest.Wait()
		if err != nil {
			t.Fatal(err)
		}
		expect(t, d, 0, newest)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		again, p, err := recovered(orderedLayout, g.Image(crashdisk.SeedLost), wal.CutPrefix)
		if err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(p[:len(newest)], newest); i >= 0 {
			t.Errorf("after a restart byte %d is not what was written last", i)
		}
		abandonQuietly(again)
		closed(t, d, orderedLayout, g)
	})
}

// writeBeside writes from a goroutine of its own, which ends with the write.
func writeBeside(t *testing.T, d *Disk, p []byte, off int64) {
	t.Helper()
	go func() {
		if _, err := d.WriteAt(p, off); err != nil {
			t.Errorf("write %d bytes at %d: %v", len(p), off, err)
		}
	}()
}

// displace writes [off, off+n) twice, so that its blocks lie in spare slots, durably.
func displace(t *testing.T, d *Disk, off int64, n int) {
	t.Helper()
	for seed := range uint64(2) {
		write(t, d, pattern(seed+1, n), off)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := d.once.state.Stats().Displaced * blockBytes; got != int64(n) {
		t.Fatalf("%d bytes are displaced, want %d", got, n)
	}
}

// leaveQuarantine lets places that were given up be used again. It writes to off, and leaves
// the disk just short of idle.
func leaveQuarantine(t *testing.T, d *Disk, off int64) {
	t.Helper()
	for i := range 2 { // the log proves itself what the first flush made durable
		write(t, d, []byte{byte(i)}, off)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * idleCheck) // the checkpointer looks after them
	synctest.Wait()
}

// TestHomingGivesWay: a client's change stops homing on its way, and what was copied until then
// counts for nothing. When the disk is idle again all of it goes home.
func TestHomingGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, orderedLayout, Options{})
		for i := range int64(8) { // home, then to spare
			write(t, d, pattern(uint64(i), 256<<10), i%4<<19)
		}
		leaveQuarantine(t, d, 3<<20)
		before := d.once.state.Stats().Displaced
		pieces := 0
		moved, err := d.homeBatch(idleBatch, func() bool { pieces++; return pieces > 1 })
		if err != nil || moved != 0 || pieces != 2 {
			t.Errorf("homing that is stopped: moved %d bytes in %d pieces, %v", moved, pieces, err)
		}
		if now := d.once.state.Stats().Displaced; now != before || before == 0 {
			t.Errorf("%d blocks are displaced, %d before", now, before)
		}
		// A client that changes something every second is never idle.
		for i := range int64(10) {
			write(t, d, []byte{byte(i)}, 3<<20)
			time.Sleep(time.Second)
		}
		if now := d.once.state.Stats().Displaced; now != before {
			t.Errorf("beside a client %d of %d blocks went home", before-now, before)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := d.once.state.Stats().Displaced; now != 0 {
			t.Errorf("after an idle minute %d blocks are displaced", now)
		}
		closed(t, d, orderedLayout, g)
	})
}

// TestIdleCheckpointGivesWay: a client's change stops the checkpoint of an idle disk on its way. What it
// wrote home by then counts for nothing, and all goes home when the disk is idle again.
func TestIdleCheckpointGivesWay(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		t.Run(mode.String(), func(t *testing.T) {
			l := tiny
			l.mode = mode
			synctest.Test(t, func(t *testing.T) { idleCheckpointGivesWay(t, l) })
		})
	}
}

func idleCheckpointGivesWay(t *testing.T, l layout) {
	const blocks, cameBackAt = 40, 7
	d, g := opened(t, l, Options{})
	for i := range int64(blocks) { // far from each other, so that each goes home alone
		write(t, d, pattern(uint64(i), 1000), i*3*blockBytes)
	}
	tail := d.log.Stats().Tail
	homes := 0
	g.OnOp(func(_ int, operation string) {
		if !strings.HasPrefix(operation, "write backing") {
			return
		}
		if homes++; homes == cameBackAt {
			write(t, d, pattern(100, 1000), 2*blockBytes)
		}
	})
	time.Sleep(idleAfter + 2*idleCheck)
	synctest.Wait()
	if homes < cameBackAt || homes > cameBackAt+1 {
		t.Errorf("a client came back at the write home no. %d of %d; there were %d", cameBackAt, blocks, homes)
	}
	if now := d.log.Stats().Tail; now != tail {
		t.Errorf("the tail moved from %#x to %#x", tail, now)
	}
	// Homes that it kept would hold up the next one for ever.
	write(t, d, pattern(101, 4*blockBytes), 0)
	time.Sleep(time.Minute)
	synctest.Wait()
	if extents, _ := d.overlay.size(); extents != 0 || homes < blocks {
		t.Errorf("after an idle minute %d extents are not home, by %d writes", extents, homes)
	}
	expect(t, d, 0, pattern(101, 4*blockBytes))
	for i := int64(2); i < blocks; i++ {
		expect(t, d, i*3*blockBytes, pattern(uint64(i), 1000))
	}
	closed(t, d, l, g)
}

// TestBasesAreInTheLog: while a checkpoint flushes the journal, for whatever reason, one write goes
// to the log and a later one in place. The bases that the checkpoint stores may tell of the later one
// only if the log has a barrier behind both: else a cut at the last one leaves it without the earlier.
func TestBasesAreInTheLog(t *testing.T) {
	l := tiny
	l.mode = jsuper.Ordered
	for nth := 1; ; nth++ {
		d, g := opened(t, l, Options{})
		write(t, d, pattern(1, 1000), 0)
		earlier, later := pattern(2, 1000), pattern(3, 8192)
		flushes := 0
		g.OnOp(func(_ int, operation string) {
			if operation != "flush journal" {
				return
			}
			switch flushes++; {
			case flushes < nth:
				write(t, d, pattern(4, 100), 32<<10) // the log has something to flush
			case flushes == nth:
				write(t, d, earlier, 0)
				write(t, d, later, 64<<10)
			}
		})
		if moved, err := d.checkpointBatch(d.batchBytes, nil); err != nil || !moved {
			t.Fatalf("checkpoint: moved %v, %v", moved, err)
		}
		g.Crash()
		abandon(d)
		if flushes < nth {
			if nth < 6 { // of the log twice, of the bases, of the superblock and its other slot
				t.Errorf("only %d flushes of the journal", flushes)
			}
			return
		}
		for image := range int64(2 * imagesPerCrash) {
			cut := []wal.Cut{wal.CutPrefix, wal.CutBarrier}[image%2]
			again, p, err := recovered(l, g.Image(image/2), cut)
			if err != nil {
				t.Fatalf("writes in flush %d, image %d, cut %v: %v", nth, image/2, cut, err)
			}
			if bytes.Equal(p[64<<10:][:len(later)], later) && !bytes.Equal(p[:len(earlier)], earlier) {
				t.Fatalf("writes in flush %d, image %d, cut %v: the later one is there, the earlier one is not", nth, image/2, cut)
			}
			abandonQuietly(again)
			done(p)
		}
	}
}
