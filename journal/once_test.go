package journal

import (
	"bytes"
	"context"
	"testing"

	"jnbd/jsuper"
	"jnbd/ordered"
	"jnbd/wal"
)

// orderedLayout has spare for all of the disk.
var orderedLayout = layout{name: "ordered", disk: 4 << 20, journal: logStart + 1<<20, mode: jsuper.Ordered}

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
