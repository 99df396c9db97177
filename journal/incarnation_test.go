package journal

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// TestIncarnation: a disk's incarnation changes when writes that were replied to may be gone,
// and only then. Within one the sequence number never goes back.
func TestIncarnation(t *testing.T) {
	boot, another := [16]byte{1}, [16]byte{2}
	killed := func(t *testing.T, d *Disk, g *crashdisk.Group) *crashdisk.Group {
		after := g.KillImage()
		abandonQuietly(d)
		return after
	}
	lostPower := func(t *testing.T, d *Disk, g *crashdisk.Group) *crashdisk.Group {
		g.Crash()
		abandon(d)
		return g.Image(0) // nothing that was not flushed
	}
	stopped := func(t *testing.T, d *Disk, g *crashdisk.Group) *crashdisk.Group {
		if err := d.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		return g.KillImage()
	}
	finished := func(t *testing.T, d *Disk, g *crashdisk.Group) *crashdisk.Group {
		if err := d.Finish(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		return g.KillImage()
	}
	for _, c := range []struct {
		name  string
		end   func(*testing.T, *Disk, *crashdisk.Group) *crashdisk.Group
		again Options
		same  bool
	}{
		{"killed", killed, Options{BootID: boot}, true},
		{"killed, and the host started anew", killed, Options{BootID: another}, false},
		{"killed, and nobody knows", killed, Options{}, false},
		{"power lost", lostPower, Options{BootID: another}, false},
		{"stopped", stopped, Options{BootID: boot}, true},
		{"stopped, and the host started anew", stopped, Options{BootID: another}, true},
		{"killed, and cut at the barrier", killed, Options{BootID: boot, Recover: wal.CutBarrier}, false},
		{"stopped, and cut at the barrier", stopped, Options{BootID: boot, Recover: wal.CutBarrier}, true},
		{"stopped, and to be accepted, but nothing has changed", stopped, Options{BootID: boot, AcceptBacking: true}, true},
		{"closed, on a device that does not tell when it was written", finished, Options{BootID: boot}, false},
	} {
		for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
			again, same := c.again, c.same
			t.Run(mode.String()+"/"+c.name, func(t *testing.T) {
				l := tiny
				l.mode = mode
				d, g := opened(t, l, Options{BootID: boot})
				first, began := d.Incarnation()
				write(t, d, pattern(1, 5000), 8192)
				before, seq := d.Incarnation()
				if first == 0 || before != first || seq <= began {
					t.Fatalf("incarnation %#x at %d, then %#x at %d", first, began, before, seq)
				}
				after := c.end(t, d, g)
				for range 2 { // what was decided holds for the next process as well
					d, err := Open(l.parts(after), again)
					if err != nil {
						t.Fatal(err)
					}
					got, at := d.Incarnation()
					switch {
					case got == 0, (got == before) != same:
						t.Errorf("incarnation %#x after %#x, want the same: %v", got, before, same)
					case same && at < seq:
						t.Errorf("seq %d after %d in the same incarnation", at, seq)
					}
					after = killed(t, d, after)
					before, seq = got, at
					again, same = Options{BootID: again.BootID}, again.BootID != [16]byte{}
				}
			})
		}
	}
}

// TestIncarnationIdleBarrier: a cut at a barrier that cuts nothing off loses nothing.
func TestIncarnationIdleBarrier(t *testing.T) {
	opt := Options{BootID: [16]byte{1}, Recover: wal.CutBarrier}
	d, g := opened(t, tiny, opt)
	write(t, d, pattern(1, 5000), 8192)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before, _ := d.Incarnation()
		g = g.KillImage()
		abandonQuietly(d)
		var err error
		if d, err = Open(tiny.parts(g), opt); err != nil {
			t.Fatal(err)
		}
		if after, _ := d.Incarnation(); after != before {
			t.Errorf("incarnation %#x after %#x", after, before)
		}
	}
	abandonQuietly(d)
}

// TestIncarnationOfAcceptedBacking: what others have written to is another disk from then on.
func TestIncarnationOfAcceptedBacking(t *testing.T) {
	opt := Options{BootID: [16]byte{1}, AcceptBacking: true}
	d, g := opened(t, tiny, opt)
	write(t, d, pattern(1, 4096), 500_000)
	before, _ := d.Incarnation()
	closed(t, d, tiny, g)
	d, err := Open(scribble(0)(t, g.KillImage()), opt)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := d.Incarnation(); after == before || after == 0 {
		t.Errorf("incarnation %#x after %#x", after, before)
	}
	abandonQuietly(d)
}

// TestIncarnationReadOnly: a reader tells the incarnation, or none if it would have to change.
func TestIncarnationReadOnly(t *testing.T) {
	d, g := opened(t, tiny, Options{BootID: [16]byte{1}})
	write(t, d, pattern(1, 5000), 8192)
	want, seq := d.Incarnation()
	after := g.KillImage()
	abandonQuietly(d)
	for boot, want := range map[byte]uint64{1: want, 2: 0} {
		r, err := Open(tiny.parts(after), Options{ReadOnly: true, BootID: [16]byte{boot}})
		if err != nil {
			t.Fatal(err)
		}
		if got, at := r.Incarnation(); got != want || at < seq {
			t.Errorf("boot %d: incarnation %#x at %d, want %#x at %d or more", boot, got, at, want, seq)
		}
		_ = r.Close(context.Background()) // a reader has nothing to end
	}
}

// TestIncarnationOfRawImage: a closed image that nobody has touched is the same when it is
// opened again. One that was written to is another.
func TestIncarnationOfRawImage(t *testing.T) {
	for _, touched := range []bool{false, true} {
		dir := t.TempDir()
		open := func(name string, size int64) *disk.File {
			f, err := disk.OpenFile(filepath.Join(dir, name), disk.FileOptions{Create: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			return f
		}
		format := tiny.format()
		parts := Parts{Backing: open("backing", format.DiskBytes), Journal: open("journal", JournalSize(format)), Placement: jsuper.Beside}
		if _, err := Format(parts, format); err != nil {
			t.Fatal(err)
		}
		opt := Options{BootID: [16]byte{1}}
		d, err := Open(parts, opt)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d, pattern(1, 5000), 8192)
		before, _ := d.Incarnation()
		if err := d.Finish(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		if touched {
			later := time.Now().Add(time.Second)
			if err := os.Chtimes(filepath.Join(dir, "backing"), later, later); err != nil {
				t.Fatal(err)
			}
		}
		if d, err = Open(parts, opt); err != nil {
			t.Fatal(err)
		}
		if after, _ := d.Incarnation(); (after == before) == touched {
			t.Errorf("touched %v: incarnation %#x after %#x", touched, after, before)
		}
		abandonQuietly(d)
	}
}
