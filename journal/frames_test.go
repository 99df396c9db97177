package journal

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"jnbd/wal"
)

// reading is a FrameReader and the offsets of the DATA records that it has seen.
type reading struct {
	reader  *FrameReader
	lastSeq uint64
	offsets []int64
	missed  int64
}

func (r *reading) read(t *testing.T) error {
	t.Helper()
	missed, err := r.reader.Read(func(f *wal.Frame) error {
		if f.Seq <= r.lastSeq {
			t.Errorf("frame %d after %d", f.Seq, r.lastSeq)
		}
		r.lastSeq = f.Seq
		for i := range f.Records {
			if f.Kind == wal.KindRecords && f.Records[i].Kind == KindData {
				r.offsets = append(r.offsets, int64(f.Records[i].A))
			}
		}
		return nil
	})
	r.missed += missed
	return err
}

// A reader that reads now and then sees every frame once, in order: over checkpoints, the end
// of the ring, and restarts with and without a crash. In the bubble no time passes, so no
// checkpoint of an idle disk comes before the reader.
func TestFramesFollow(t *testing.T) { synctest.Test(t, framesFollow) }

func framesFollow(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	r := &reading{reader: NewFrameReader(tiny.parts(g), 0)}
	var want []int64
	step := func(n int) {
		t.Helper()
		for range n {
			off := int64(len(want)*4096) % tiny.disk
			write(t, d, pattern(uint64(len(want)), 4096), off)
			want = append(want, off)
			if err := r.read(t); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.read(t); err != nil {
			t.Fatal(err)
		}
		// A barrier frame may be gone with the checkpoint that made it; a write never is.
		if !slices.Equal(r.offsets, want) || r.missed >= 4096 {
			t.Fatalf("%d writes seen, want %d; %d bytes missed", len(r.offsets), len(want), r.missed)
		}
	}
	step(0)
	for i := range 40 { // the log takes about 100 of them
		step(i % 23)
		if i%5 == 0 {
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			step(0)
		}
		if i%7 == 0 {
			if err := d.Checkpoint(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 != 9 {
			continue
		}
		if i%20 == 9 {
			abandonQuietly(d)
		} else if err := d.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		var err error
		if d, err = Open(tiny.parts(g), Options{}); err != nil {
			t.Fatal(err)
		}
	}

	// What is freed before it is read is told of, and the rest still read.
	for range 300 {
		write(t, d, pattern(1, 4096), 0)
	}
	if err := d.Checkpoint(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	write(t, d, pattern(1, 4096), 8192)
	if err := r.read(t); err != nil {
		t.Fatal(err)
	}
	if r.missed < 300*4096/2 || r.offsets[len(r.offsets)-1] != 8192 {
		t.Errorf("missed %d bytes, and the last write seen is at %d", r.missed, r.offsets[len(r.offsets)-1])
	}
	closed(t, d, tiny, g)
}

// A reader beside a writer sees whole frames only, each once.
func TestFramesBesideWriter(t *testing.T) { synctest.Test(t, framesBesideWriter) }

func framesBesideWriter(t *testing.T) {
	d, g := opened(t, tiny, Options{})
	r := &reading{reader: NewFrameReader(tiny.parts(g), 0)}
	const writes = 40 // less than half of the log: no checkpoint frees any of them
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range int64(writes) {
			if _, err := d.WriteAt(pattern(uint64(i), 4096), i*4096); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for len(r.offsets) < writes && r.missed == 0 && !t.Failed() {
		// The first look is a recovery's: it may take for damage what is being written.
		if err := r.read(t); err != nil && r.reader.begun {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if len(r.offsets) != writes {
		t.Errorf("%d writes seen, want %d; %d bytes missed", len(r.offsets), writes, r.missed)
	}
	for i, off := range r.offsets {
		if off != int64(i)*4096 {
			t.Fatalf("write %d that was seen is at %d", i, off)
		}
	}
	closed(t, d, tiny, g)
}
