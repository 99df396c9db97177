package journal

import (
	"context"
	"errors"
	"testing"

	"jnbd/jsuper"
)

// TestAcceptShowsWhatWasWritten: who writes to the backing behind the journal, and says that it
// is to be accepted, reads what he wrote, also where the disk was absent; only what the
// log still speaks of stands above it. It stays so after the next crash.
func TestAcceptShowsWhatWasWritten(t *testing.T) {
	foreign := []byte("not yours")
	const home, absent, logged, trimmed = 0, 400 << 10, 600 << 10, 800 << 10
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		for _, stopped := range []bool{true, false} {
			name := mode.String() + ", crashed"
			if stopped {
				name = mode.String() + ", stopped"
			}
			t.Run(name, func(t *testing.T) {
				l := tiny
				l.mode = mode
				d, g := opened(t, l, Options{})
				write(t, d, pattern(1, 4096), home)
				if err := d.Trim(absent, 64<<10, nil); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(d.Sync(), d.Checkpoint(context.Background(), nil)); err != nil {
					t.Fatal(err)
				}
				write(t, d, pattern(2, 100), logged)
				if err := errors.Join(d.Trim(trimmed, 64<<10, nil), d.Sync()); err != nil {
					t.Fatal(err)
				}
				if stopped {
					if err := d.Close(context.Background()); err != nil {
						t.Fatal(err)
					}
				} else {
					abandonQuietly(d)
				}
				g = g.KillImage()
				for _, off := range []int64{home, absent, logged, trimmed} {
					if _, err := g.Lookup("backing").WriteAt(foreign, off+200); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := Open(l.parts(g), Options{}); !errors.Is(err, ErrBackingChanged) {
					t.Fatalf("open answers %v", err)
				}

				want := func(d *Disk) {
					t.Helper()
					expect(t, d, home, pattern(1, 200))
					expect(t, d, home+200, foreign)
					expect(t, d, absent+200, foreign)
					expect(t, d, logged, pattern(2, 100))
					expect(t, d, logged+200, foreign)
					if stopped {
						expect(t, d, trimmed+200, foreign)
					} else {
						expect(t, d, trimmed+200, make([]byte, len(foreign)))
					}
				}
				again, err := Open(l.parts(g), Options{AcceptBacking: true})
				if err != nil {
					t.Fatal(err)
				}
				want(again)
				g = g.KillImage()
				abandonQuietly(again)
				if again, err = Open(l.parts(g), Options{}); err != nil {
					t.Fatalf("after it was accepted: %v", err)
				}
				want(again)
				closed(t, again, l, g)
			})
		}
	}
}

// TestAcceptOfNothing: the flag does nothing to a backing that nobody changed. What a crash or a
// trim left in absent homes stays unseen (I11).
func TestAcceptOfNothing(t *testing.T) {
	l := tiny
	l.mode = jsuper.Ordered
	d, g := opened(t, l, Options{})
	write(t, d, pattern(1, 64<<10), 400<<10)
	if err := errors.Join(d.Trim(400<<10, 64<<10, nil), d.Sync()); err != nil {
		t.Fatal(err)
	}
	g = g.KillImage()
	abandonQuietly(d)
	again, err := Open(l.parts(g), Options{AcceptBacking: true})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, again, 400<<10, make([]byte, 64<<10))
	closed(t, again, l, g)
}
