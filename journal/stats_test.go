package journal

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
)

// witness counts what is written to a device. It has no capability, so that all of it comes
// through WriteAt.
type witness struct {
	disk.Device
	written *atomic.Uint64
}

func (w witness) WriteAt(p []byte, off int64) (int, error) {
	w.written.Add(uint64(len(p)))
	return w.Device.WriteAt(p, off)
}

// The figures of write amplification are what the host's devices have seen, and what is
// promised of them: about once in mode ordered, about twice in mode data.
func TestWriteAmplification(t *testing.T) {
	const diskBytes, request, requests = 64 << 20, 1 << 20, 48
	for _, tt := range []struct {
		mode        jsuper.Mode
		least, most float64
	}{
		{jsuper.Ordered, 1, 1.02},
		{jsuper.Data, 2, 2.05},
	} {
		t.Run(tt.mode.String(), func(t *testing.T) {
			format := FormatOptions{DiskBytes: diskBytes, JournalBytes: MinJournalBytes, Mode: tt.mode}
			var written, flushes atomic.Uint64
			p := Parts{
				Backing:   witness{disk.NewMem(diskBytes), &written},
				Journal:   witness{disk.NewMem(JournalSize(format)), &written},
				Placement: jsuper.Beside,
			}
			if _, err := Format(p, format); err != nil {
				t.Fatal(err)
			}
			d, err := Open(p, Options{OnFlush: func(time.Duration) { flushes.Add(1) }})
			if err != nil {
				t.Fatal(err)
			}
			if got := d.Stats(); got.WriteAmplification() != 0 || !got.OldestChange.IsZero() {
				t.Errorf("before the first write: amplification %v, oldest change %s", got.WriteAmplification(), got.OldestChange)
			}
			// What Open wrote for recovery is counted by the witness only, but for the superblock.
			before, atOpen := written.Load(), d.Stats()
			began := time.Now()
			payload := pattern(1, request)
			for i := range int64(requests) {
				if _, err := d.WriteAt(payload, i*request); err != nil {
					t.Fatal(err)
				}
			}
			if age := d.Stats().OldestChange; age.Before(began) || time.Now().Before(age) {
				t.Errorf("the oldest change is of %s, and the first write of %s", age, began)
			}
			if err := d.Checkpoint(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
			st := d.Stats()
			if got, want := st.HostBytes()-atOpen.HostBytes(), written.Load()-before; got != want {
				t.Errorf("counted %d bytes to the host, the devices %d", got, want)
			}
			if st.ClientBytes != requests*request {
				t.Errorf("%d bytes from clients, want %d", st.ClientBytes, requests*request)
			}
			if a := st.WriteAmplification(); a < tt.least || a > tt.most {
				t.Errorf("write amplification %.4f, want %v to %v (%+v)", a, tt.least, tt.most, st)
			}
			if !st.OldestChange.IsZero() {
				t.Errorf("all is home, and the oldest change is of %s", st.OldestChange)
			}
			if err := d.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := d.Stats().Flushes; flushes.Load() == 0 || flushes.Load() < got-1 {
				t.Errorf("told of %d flushes, of %d", flushes.Load(), got)
			}
		})
	}
}
