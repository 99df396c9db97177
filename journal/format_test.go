package journal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// TestCrashInFormat: a disk gets another journal in the place of an old one, and the machine crashes
// at any operation: there is no journal then (the old superblock is gone, or torn), or a whole one. The
// homes hold what they held.
func TestCrashInFormat(t *testing.T) {
	const size = 1 << 20
	beside := layout{name: "beside", disk: size, journal: logStart + 512<<10}
	inside := layout{name: "internal", internal: true, disk: size, journal: 540 << 10}
	for _, l := range []layout{beside, inside} {
		for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
			l.mode = mode
			for _, written := range []bool{false, true} {
				if mode == jsuper.Data {
					if written {
						continue // it has no spare area
					}
				} else {
					l.spare = size
				}
				l.written = written
				t.Run(fmt.Sprintf("%s-%s-%v", mode, l.name, written), func(t *testing.T) {
					t.Parallel()
					crashInFormat(t, l)
				})
			}
		}
	}
}

func crashInFormat(t *testing.T, l layout) {
	old := l
	old.written = false
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
	write(t, d, want[:128<<10], 0)
	if d.once != nil { // it was displaced
		err = d.bringAllHome(t.Context(), nil)
	}
	if err := errors.Join(err, d.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	base = base.KillImage()

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
				t.Errorf("crash at operation %d (%s), image %d: %v", k, g.OpInfo(k), seed, err)
			}
		}
	}
	if crashes < 20 || none == 0 || none == crashes {
		t.Errorf("%d states, %d without a journal: the test tests too little", crashes, none)
	}
	t.Logf("%d states, %d without a journal", crashes, none)
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
