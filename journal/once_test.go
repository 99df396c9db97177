package journal

import (
	"bytes"
	"context"
	"testing"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/ordered"
	"jnbd/wal"
)

// orderedLayout has spare for all of the disk.
var orderedLayout = layout{name: "ordered", disk: 4 << 20, journal: logStart + 1<<20, mode: jsuper.Ordered}

// TestBulkIsFlushedInTime: what a recovery has to checksum is bounded, in bulk as in the log, though
// nobody asks for a flush (P6).
func TestBulkIsFlushedInTime(t *testing.T) {
	d, _ := opened(t, orderedLayout, Options{UnflushedBulk: 1 << 20})
	changed, before := d.log.Changed(), d.log.Stats()
	write(t, d, pattern(1, 512<<10), 0)
	if s := d.log.Stats(); s.DurableUpTo != before.DurableUpTo || s.Flushes != before.Flushes {
		t.Errorf("flushed after half of it: %+v", s)
	}
	write(t, d, pattern(2, 512<<10), 1<<20)
	<-changed
	if s := d.log.Stats(); s.SoftFlushes != 1 || s.DurableUpTo != s.Head {
		t.Errorf("after 1 MiB of bulk: %+v, want all of it durable", s)
	}
}

// TestBulkIsWrittenOnce: P5, by the devices' own count. A fresh write goes home, an overwrite
// to spare, the next home again; the log gets records, not bytes.
func TestBulkIsWrittenOnce(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	const n = 256 << 10
	before := d.Stats().LoggedBytes
	for pass := range uint64(12) {
		p := pattern(pass, n)
		write(t, d, p, 0)
		expect(t, d, 0, p)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if logged := d.Stats().LoggedBytes - before; logged > 12*n/20 {
		t.Errorf("%d bytes of log for %d bytes of bulk", logged, 12*n)
	}
	home, spare := d.once.homeBytes.Load(), d.once.spareBytes.Load()
	if home+spare != 12*n {
		t.Errorf("%d bytes in place and %d to spare for %d bytes of bulk", home, spare, 12*n)
	}
	if home == 0 || spare == 0 {
		t.Errorf("%d bytes in place, %d to spare: overwrites should alternate", home, spare)
	}
	if err := d.Finish(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	raw := g.Lookup("backing").Snapshot()
	if !bytes.Equal(raw[:n], pattern(11, n)) || bytes.Count(raw[n:], []byte{0}) != len(raw)-n {
		t.Error("the raw image is not what was written")
	}
}

// TestSpareExhausted: with next to no spare everything still works, through the log.
func TestSpareExhausted(t *testing.T) {
	l := orderedLayout
	l.spare = 2 * ordered.BlockBytes
	d, g := opened(t, l, Options{})
	model := make([]byte, l.disk)
	for i := range uint64(60) {
		p := pattern(i, 100_000)
		off := int64(i*77_777) % (l.disk - 100_000)
		write(t, d, p, off)
		copy(model[off:], p)
	}
	expect(t, d, 0, model)
	if n := d.Stats().LoggedBytes; n < 1<<20 {
		t.Errorf("only %d bytes were logged: spare was not short", n)
	}
	closed(t, d, l, g)
}

// TestTrimmedBlocksAreHoles: a trim of whole blocks is a change of the map, and the next
// write there goes in place.
func TestTrimmedBlocksAreHoles(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	p := pattern(1, 64<<10)
	write(t, d, p, 0)
	if err := d.Trim(0, d.size, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, d, 0, make([]byte, d.size))
	err := d.Extents(0, d.size, func(off, n int64, hole, zero bool) bool {
		if !hole || !zero {
			t.Errorf("[%d,+%d) is no hole after a trim", off, n)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, d, p, 1<<20)
	expect(t, d, 1<<20, p)
	closed(t, d, orderedLayout, g)
}

// TestUncommittedInPlaceIsGone is I11: what was written in place and never committed is
// neither read after recovery nor left in the raw image.
func TestUncommittedInPlaceIsGone(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	const n = 64 << 10
	// The bytes go home, and the power goes while the record that speaks of them is written.
	g.CrashAt(g.Ops() + 2)
	if _, err := d.WriteAt(pattern(1, n), 0); err == nil {
		t.Fatal("the write should have met the crash")
	}
	abandon(d)
	uncommitted := 0
	for image := range int64(40) {
		after := g.Image(image)
		garbage := bytes.Count(after.Lookup("backing").Snapshot()[:n], []byte{0}) < n
		again, p, err := recovered(orderedLayout, after, wal.CutPrefix)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, orderedLayout.disk)
		if bytes.Equal(p[:n], pattern(1, n)) {
			copy(want, p[:n]) // the record survived, and all that it speaks of
		} else if garbage {
			uncommitted++
		}
		if i := firstDifference(p, want); i >= 0 {
			t.Fatalf("image %d: byte %d is read that was never committed", image, i)
		}
		if err := again.Finish(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(after.Lookup("backing").Snapshot(), want); i >= 0 {
			t.Fatalf("image %d: byte %d of the raw image was never committed", image, i)
		}
		done(p)
	}
	if uncommitted == 0 {
		t.Error("no image had bytes in place without their record: this test tests nothing")
	}
}

// TestSmallIntoDisplaced: parts of blocks over bases of every kind, brought home in between.
func TestSmallIntoDisplaced(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	model := make([]byte, orderedLayout.disk)
	put := func(seed uint64, n int, off int64) {
		p := pattern(seed, n)
		write(t, d, p, off)
		copy(model[off:], p)
	}
	put(1, 64<<10, 0)  // home
	put(2, 32<<10, 0)  // spare
	put(3, 100, 50)    // a part of a displaced block
	put(4, 100, 40000) // of one at home
	put(5, 100, 900_000)
	put(6, 5000, 1_000_001) // whole blocks with edges
	expect(t, d, 0, model)
	if err := d.Checkpoint(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	expect(t, d, 0, model)
	put(7, 7, 60)
	expect(t, d, 0, model)
	closed(t, d, orderedLayout, g)
	again, err := Open(orderedLayout.parts(g), Options{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, again, 0, model)
	closed(t, again, orderedLayout, g)
}

// TestRawImageIsTheUsers: what is written to the raw image after a close is what is served when
// the disk is used again, also where it had nothing before.
func TestRawImageIsTheUsers(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	write(t, d, pattern(1, 64<<10), 0)
	if err := d.Finish(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	theirs := pattern(2, 10_000)
	if _, err := g.Lookup("backing").WriteAt(theirs, 2_000_000); err != nil {
		t.Fatal(err)
	}
	d, err := Open(orderedLayout.parts(g), Options{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, d, 2_000_000, theirs)
	expect(t, d, 0, pattern(1, 64<<10))
	write(t, d, pattern(3, 64<<10), 2_000_000)
	closed(t, d, orderedLayout, g)
	if d, err = Open(orderedLayout.parts(g), Options{}); err != nil {
		t.Fatal(err)
	}
	expect(t, d, 2_000_000, pattern(3, 64<<10))
	expect(t, d, 0, pattern(1, 64<<10))
	closed(t, d, orderedLayout, g)
}

// TestCrashAfterClose: the same when the power goes at any operation of the first use.
func TestCrashAfterClose(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	write(t, d, pattern(1, 64<<10), 0)
	if err := d.Finish(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	theirs := pattern(2, 10_000)
	if _, err := g.Lookup("backing").WriteAt(theirs, 2_000_000); err != nil {
		t.Fatal(err)
	}
	if err := g.Lookup("backing").Flush(); err != nil {
		t.Fatal(err)
	}
	for k := 1; ; k++ {
		run := g.KillImage()
		run.CrashAt(k)
		d, err := Open(orderedLayout.parts(run), Options{})
		if err == nil {
			_, err = d.WriteAt(pattern(3, 64<<10), 1_000_000)
			if err == nil {
				err = d.Close(context.Background())
			} else {
				abandon(d)
			}
		}
		if !run.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		for image := range int64(imagesPerCrash) {
			again, p, err := recovered(orderedLayout, run.Image(image), wal.CutPrefix)
			if err != nil {
				t.Fatalf("crash at %d, image %d: %v", k, image, err)
			}
			abandonQuietly(again)
			if !bytes.Equal(p[2_000_000:2_010_000], theirs) || !bytes.Equal(p[:64<<10], pattern(1, 64<<10)) {
				t.Fatalf("crash at %d (%s), image %d: what the raw image held is gone", k, run.OpInfo(k), image)
			}
			done(p)
		}
	}
}

// TestChangeOfMode: there and back, on a device that can grow, with every byte kept.
func TestChangeOfMode(t *testing.T) {
	l := layout{disk: 2 << 20, journal: logStart + 1<<20}
	g := formatted(t, l)
	model := make([]byte, l.disk)
	p := l.parts(g)
	grown := g.Disk("grown", JournalSize(FormatOptions{DiskBytes: l.disk, JournalBytes: l.journal, Mode: jsuper.Ordered})+1<<20)
	if _, err := grown.WriteAt(g.Lookup("journal").Snapshot(), 0); err != nil {
		t.Fatal(err)
	}
	p.Journal = &growing{Disk: grown, size: l.journal}
	for i, mode := range []jsuper.Mode{0, jsuper.Ordered, jsuper.Data, jsuper.Auto, jsuper.Data, jsuper.Ordered} {
		d, err := Open(p, Options{Mode: mode})
		if err != nil {
			t.Fatalf("to mode %s: %v", mode, err)
		}
		expect(t, d, 0, model)
		if got := d.Stats().Mode; mode != 0 && got != mode {
			t.Fatalf("the disk is in mode %s, not %s", got, mode)
		}
		for j := range int64(4) {
			b := pattern(uint64(i)*10+uint64(j), 90_000)
			off := (int64(i)*333_333 + j*70_001) % (l.disk - 90_000)
			write(t, d, b, off)
			copy(model[off:], b)
		}
		expect(t, d, 0, model)
		if err := d.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// growing is a device that can be made longer, up to what it really is.
type growing struct {
	*crashdisk.Disk
	size int64
}

func (g *growing) Size() int64 { return g.size }

func (g *growing) Truncate(size int64) error {
	g.size = size
	return nil
}
