package journal

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"jnbd/wal"
)

// TestAnsweredIsAppended: who waits for a leader is answered when its bytes are the kernel's,
// not before (P2).
func TestAnsweredIsAppended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := opened(t, tiny, Options{})
		step := make(chan struct{})
		g.OnOp(func(_ int, operation string) {
			if strings.HasPrefix(operation, "write journal") {
				<-step
			}
		})
		var answered atomic.Int64
		for i := range int64(5) {
			go func() { // ends when its append is let through
				if _, err := d.WriteAt([]byte{byte(i)}, i*512); err != nil {
					t.Error(err)
				}
				answered.Add(1)
			}()
			synctest.Wait() // the first leads and hangs; the others queue, and go together
		}
		for _, want := range []int64{0, 1} {
			if got := answered.Load(); got != want {
				t.Errorf("%d writes are answered, and %d were appended", got, want)
			}
			step <- struct{}{}
			synctest.Wait()
		}
		if got := answered.Load(); got != 5 {
			t.Errorf("%d writes are answered, 5 were appended", got)
		}
		g.OnOp(nil)
		closed(t, d, tiny, g)
	})
}

// TestReadChecksThePayload: what recovery found in the log is held against its checksum
// whenever it is read, and so never brought home damaged.
func TestReadChecksThePayload(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	write(t, d, pattern(1, 8<<10), 0)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	after := g.KillImage()
	abandonQuietly(d)
	d, err := Open(tiny.parts(after), Options{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, d, 0, pattern(1, 8<<10))
	flipLog(t, after)
	if _, err := d.ReadAt(make([]byte, 8<<10), 0); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("read of a damaged payload: %v, want %v", err, wal.ErrCorrupt)
	}
	if _, err := d.checkpointBatch(d.batchBytes, nil); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("checkpoint of a damaged payload: %v, want %v", err, wal.ErrCorrupt)
	}
	abandonQuietly(d)
}

// TestPiecesAreTied: what becomes several records of one request says so in all but the last,
// whichever way it goes. A cut then keeps all of them, or none (P4).
func TestPiecesAreTied(t *testing.T) {
	d, g := opened(t, orderedLayout, Options{})
	for _, tc := range []struct {
		name string
		off  int64
		n    int
	}{
		{"blocks with edges", 100, 12 << 10},
		{"blocks in spare", 4096, 8 << 10}, // two of those above
		{"large, with edges", 1<<20 + 1, 300 << 10},
	} {
		from := d.log.Stats().Head
		write(t, d, pattern(1, tc.n), tc.off)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		var more []bool
		if _, err := d.log.Frames(from, func(f *wal.Frame) error {
			for i := range f.Records {
				more = append(more, f.Records[i].More)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i, m := range more {
			if m != (i < len(more)-1) {
				t.Errorf("%s: of %d records, number %d has More %v", tc.name, len(more), i, m)
			}
		}
		if len(more) == 0 {
			t.Errorf("%s: no records", tc.name)
		}
	}
	closed(t, d, orderedLayout, g)
}
