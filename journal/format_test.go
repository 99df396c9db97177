package journal

import (
	"bytes"
	"errors"
	"testing"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// TestCrashInFormat: a disk gets another journal in the place of an old one, and the machine crashes
// at any operation: there is no journal then (the old superblock is gone, or torn), or a whole one. The
// homes hold what they held.
func TestCrashInFormat(t *testing.T) {
	for _, written := range []bool{false, true} {
		old := layout{name: "old", disk: 1 << 20, journal: logStart + 512<<10, mode: jsuper.Auto, spare: 1 << 20}
		base := formatted(t, old)
		d, err := Open(old.parts(base), Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := pattern(7, int(old.disk))
		for off := 0; off < len(want); off += 128 << 10 {
			write(t, d, want[off:][:128<<10], int64(off))
		}
		copy(want, pattern(8, 128<<10))
		write(t, d, want[:128<<10], 0) // displaced, and brought home
		if err := errors.Join(d.bringAllHome(t.Context(), nil), d.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		base = base.KillImage()

		l := old
		l.written = written
		crashes, none := 0, 0
		for k := 1; ; k++ {
			g := base.KillImage()
			g.CrashAt(k)
			_, err := Format(l.parts(g), l.format())
			if err == nil && !g.Crashed() {
				break
			}
			if !g.Crashed() {
				t.Fatalf("crash at operation %d: failed before it: %v", k, err)
			}
			for seed, after := range g.Images(4) {
				crashes++
				if err := holds(t, l, after, want); errors.Is(err, jsuper.ErrNoJournal) || errors.Is(err, jsuper.ErrCorrupt) {
					none++
				} else if err != nil {
					t.Errorf("written %v, crash at operation %d (%s), image %d: %v", written, k, g.OpInfo(k), seed, err)
				}
			}
		}
		if crashes < 20 || none == 0 || none == crashes {
			t.Errorf("written %v: %d states, %d without a journal: the test tests too little", written, crashes, none)
		}
	}
}

// holds compares the homes, and the disk, if it has a journal.
func holds(t *testing.T, l layout, g *crashdisk.Group, want []byte) error {
	t.Helper()
	home := make([]byte, l.disk)
	if _, err := l.parts(g).Backing.ReadAt(home, 0); err != nil {
		return err
	}
	if !bytes.Equal(home, want) {
		return errors.New("the homes have changed")
	}
	d, err := Open(l.parts(g), Options{})
	if err != nil {
		return err
	}
	defer abandon(d)
	p, err := content(d)
	if err != nil {
		return err
	}
	defer done(p)
	if firstDifference(p, want) >= 0 {
		return errors.New("the disk reads otherwise than its homes")
	}
	return nil
}
