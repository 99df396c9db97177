package journal

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"jnbd/jsuper"
)

// TestPoisonIsSticky: once the backing's flush has failed, every change and every flush says
// so, at once and for good, and nothing durable moves (P9).
func TestPoisonIsSticky(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		l := tiny
		l.mode = mode
		told := 0
		d, g := opened(t, l, Options{OnPoison: func(error) { told++ }})
		write(t, d, pattern(1, 1000), 0)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		g.OnOp(func(k int, operation string) {
			if operation == "flush backing" {
				g.FailAt(k, syscall.EIO)
			}
		})
		if err := d.Checkpoint(context.Background(), nil); !errors.Is(err, syscall.EIO) {
			t.Fatalf("mode %s: checkpoint with a failing flush: %v", mode, err)
		}
		g.OnOp(nil)
		before := d.Stats()
		for what, try := range map[string]func() error{
			"write":      func() error { return d.WriteBatch([][]byte{{1}}, []int64{5000}, false, nil) },
			"bulk write": func() error { return d.WriteBatch([][]byte{pattern(1, 8192)}, []int64{8192}, false, nil) },
			"zero":       func() error { return d.Zero(0, 10, true, nil) },
			"trim":       func() error { return d.Trim(0, 4096, nil) },
			"flush":      d.Sync,
			"checkpoint": func() error { return d.Checkpoint(context.Background(), nil) },
		} {
			if err := try(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
				t.Errorf("mode %s: a %s answers %v", mode, what, err)
			}
		}
		if after := d.Stats(); after.Tail != before.Tail || after.DurableUpTo != before.DurableUpTo || after.NextSeq != before.NextSeq {
			t.Errorf("mode %s: from %+v to %+v", mode, before, after)
		}
		expect(t, d, 0, pattern(1, 1000))
		if err := d.Finish(context.Background(), nil); !errors.Is(err, ErrPoisoned) {
			t.Errorf("mode %s: finish answers %v", mode, err)
		}
		if told != 1 || !strings.Contains(d.Err().Error(), "flush the backing") {
			t.Errorf("mode %s: told %d times, of %v", mode, told, d.Err())
		}
	}
}
