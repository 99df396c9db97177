package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// growth is a disk that grows, on devices that are long enough for it from the start: how
// long a file is has its own tests, with real files.
type growth struct {
	mode     jsuper.Mode
	from, to int64
}

func (w growth) parts(g *crashdisk.Group) Parts {
	return Parts{Backing: g.Disk("backing", w.to), Journal: g.Disk("journal", logStart+8<<20), Placement: jsuper.Beside}
}

func (w growth) format() FormatOptions {
	return FormatOptions{DiskBytes: w.from, JournalBytes: logStart + 512<<10, Mode: w.mode}
}

// filled is a machine with the disk before it grows: parts of it logged, at home, displaced
// and absent. It returns what the disk reads as.
func (w growth) filled(t *testing.T) (*crashdisk.Group, []byte) {
	t.Helper()
	g := crashdisk.NewGroup(1)
	if _, err := Format(w.parts(g), w.format()); err != nil {
		t.Fatal(err)
	}
	d, err := Open(w.parts(g), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 { // the second overwrites, and displaces
		for i := range int64(3) {
			p := bytes.Repeat([]byte{byte(16*round) + byte(i) + 1}, 160<<10)
			off := min(i*300<<10, w.from-int64(len(p)))
			if err := d.WriteBatch([][]byte{p}, []int64{off}, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := d.Checkpoint(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.WriteBatch([][]byte{[]byte("logged")}, []int64{1000}, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	p, err := content(d)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(p)
	done(p)
	if st := d.Stats(); w.mode != jsuper.Data && st.DisplacedBytes == 0 {
		t.Fatal("nothing is displaced: the test tests too little")
	}
	g.Crash()
	abandon(d)
	return g.Image(1), want // what was flushed
}

// mustHold checks that a disk reads as want, and as zeros behind it.
func (w growth) mustHold(t *testing.T, what string, d *Disk, want []byte) {
	t.Helper()
	p, err := content(d)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer done(p)
	if size := int64(len(p)); size != w.from && size != w.to {
		t.Fatalf("%s: the disk has %d bytes, want %d or %d", what, size, w.from, w.to)
	}
	if i := firstDifference(p[:w.from], want); i >= 0 {
		t.Fatalf("%s: byte %d has changed", what, i)
	}
	if rest := p[w.from:]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Fatalf("%s: what is new does not read as zeros", what)
	}
}

func growths() []growth {
	var all []growth
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		// To another number of state pages, too; from a size that is no multiple of a block.
		all = append(all, growth{mode, 1 << 20, 3 << 20}, growth{mode, 1<<20 + 700, 2 << 20})
	}
	return all
}

// A crash at any operation leaves the old disk or the new one, whole; growing again succeeds.
func TestCrashInGrow(t *testing.T) {
	for _, w := range growths() {
		t.Run(fmt.Sprintf("%s-%d", w.mode, w.from), func(t *testing.T) {
			t.Parallel()
			base, want := w.filled(t)
			sizes := map[int64]int{}
			crashes := 0
			for k := 1; ; k++ {
				g := base.KillImage()
				g.CrashAt(k)
				d, err := Open(w.parts(g), Options{Grow: w.to})
				if err == nil {
					err = d.Close(context.Background())
				}
				if err == nil && !g.Crashed() {
					break
				}
				if d != nil {
					abandon(d)
				}
				if !g.Crashed() {
					t.Fatalf("crash at operation %d: failed before it: %v", k, err)
				}
				crashes++
				for image := range int64(4) {
					what := fmt.Sprintf("crash at operation %d (%s), image %d", k, g.OpInfo(k), image)
					after := g.Image(image)
					d, err := Open(w.parts(after), Options{Recover: wal.CutPrefix})
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					w.mustHold(t, what, d, want)
					sizes[d.size]++
					if err := d.Close(context.Background()); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if d, err = Open(w.parts(after), Options{Grow: w.to}); err != nil {
						t.Fatalf("%s: grow again: %v", what, err)
					}
					w.mustHold(t, what+", grown again", d, want)
					if err := d.Finish(context.Background(), nil); err != nil {
						t.Fatalf("%s: finish: %v", what, err)
					}
				}
			}
			if crashes < 10 || sizes[w.from] == 0 || sizes[w.to] == 0 {
				t.Errorf("%d crashes, sizes found %v: too little was tested", crashes, sizes)
			}
		})
	}
}

// A grown disk is a disk like any other: it is used to its end, and grows again.
func TestGrowTwice(t *testing.T) {
	for _, w := range growths() {
		t.Run(fmt.Sprintf("%s-%d", w.mode, w.from), func(t *testing.T) {
			g, want := w.filled(t)
			for _, to := range []int64{w.from + 512<<10, w.to} {
				d, err := Open(w.parts(g), Options{Grow: to})
				if err != nil {
					t.Fatal(err)
				}
				if d.size != to {
					t.Fatalf("the disk has %d bytes, want %d", d.size, to)
				}
				spare := d.Stats().SpareBytes
				if least := to / 4 / blockBytes * blockBytes; w.mode != jsuper.Data && spare < least {
					t.Errorf("a disk of %d bytes has %d of spare, want at least %d", to, spare, least)
				}
				want = append(want, make([]byte, to-int64(len(want)))...)
				for round := range 3 { // home, spare, home again
					p := bytes.Repeat([]byte{byte(round) + 100}, 128<<10)
					off := to - int64(len(p))
					if err := d.WriteBatch([][]byte{p}, []int64{off}, false, nil); err != nil {
						t.Fatal(err)
					}
					copy(want[off:], p)
					if err := d.Sync(); err != nil {
						t.Fatal(err)
					}
				}
				p, err := content(d)
				if err != nil {
					t.Fatal(err)
				}
				if i := firstDifference(p, want); i >= 0 {
					t.Fatalf("byte %d of the disk of %d differs", i, to)
				}
				done(p)
				if err := d.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			d, err := Open(w.parts(g), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Finish(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
			raw := make([]byte, w.to)
			if _, err := g.Lookup("backing").ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			if i := firstDifference(raw, want); i >= 0 {
				t.Errorf("byte %d of the raw image differs", i)
			}
		})
	}
}

func TestGrowRefusals(t *testing.T) {
	inside := layout{internal: true, disk: 1 << 20, journal: 540 << 10}
	g := formatted(t, inside)
	if _, err := Open(inside.parts(g), Options{Grow: 2 << 20}); !errors.Is(err, ErrGrowInternal) {
		t.Errorf("grow with an internal journal: %v", err)
	}
	beside := layout{disk: 1 << 20, journal: logStart + 512<<10, mode: jsuper.Auto}
	g = formatted(t, beside)
	for _, tt := range []struct {
		options Options
		want    error
	}{
		{Options{Grow: 1 << 19}, ErrShrink},
		{Options{Grow: 2 << 20, ReadOnly: true}, ErrReadOnly},
		{Options{Grow: 2 << 20}, nil}, // the devices can't be made longer
	} {
		d, err := Open(beside.parts(g), tt.options)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("grow by %+v: %v, want %v", tt.options, err, tt.want)
		}
		if d != nil {
			abandon(d)
		}
	}
	d, err := Open(beside.parts(g), Options{}) // none of it did harm
	if err != nil {
		t.Fatal(err)
	}
	if d.size != 1<<20 {
		t.Errorf("the disk has %d bytes", d.size)
	}
	if err := d.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
