package journal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"jnbd/disk"
	"jnbd/jsuper"
)

// onFiles is a disk of 1 GiB on image files, as the command line makes it.
func onFiles(b *testing.B, journalBytes int64) *Disk {
	b.Helper()
	dir := b.TempDir()
	open := func(name string, size int64) *disk.File {
		f, err := disk.OpenFile(filepath.Join(dir, name), disk.FileOptions{Create: true, Size: size})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		return f
	}
	p := Parts{Backing: open("d.img", 1<<30), Journal: open("d.img.jnbd", journalBytes), Placement: jsuper.Beside}
	if _, err := Format(p, FormatOptions{DiskBytes: 1 << 30, JournalBytes: journalBytes, Mode: jsuper.Data}); err != nil {
		b.Fatal(err)
	}
	d, err := Open(p, Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return d
}

// BenchmarkWrite is the engine without the protocol: random 4 KiB writes in batches, as the
// server hands them down. Checkpoints are included where the log is short.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		batch   int
		journal int64
	}{{1, 1 << 30}, {32, 1 << 30}, {32, 64 << 20}} {
		b.Run(fmt.Sprintf("batch%d-log%dM", c.batch, c.journal>>20), func(b *testing.B) {
			d := onFiles(b, c.journal)
			rng := rand.New(rand.NewPCG(1, 1))
			data := make([][]byte, c.batch)
			offsets := make([]int64, c.batch)
			p := pattern(1, 4096)
			for i := range data {
				data[i] = p
			}
			b.SetBytes(int64(c.batch) * 4096)
			b.ReportAllocs()
			for b.Loop() {
				for i := range offsets {
					offsets[i] = rng.Int64N(1<<18) * 4096
				}
				if err := d.WriteBatch(data, offsets, false, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRead is a cached read of 4 KiB, with a third of the disk in the log.
func BenchmarkRead(b *testing.B) {
	d := onFiles(b, 1<<30)
	rng := rand.New(rand.NewPCG(1, 1))
	p := pattern(1, 4096)
	for range 1 << 16 {
		if _, err := d.WriteAt(p, rng.Int64N(1<<18)*4096); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		off := rng.Int64N(1<<18) * 4096
		if !d.ReadCachedAt(p, off) {
			if _, err := d.ReadAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkOpen is a restart after kill -9 with a log full of single 4 KiB writes (P6). The
// size of the log is a flag of the environment: JNBD_BENCH_LOG=4294967296 for the promise's.
func BenchmarkOpen(b *testing.B) {
	size := int64(256 << 20)
	if v := os.Getenv("JNBD_BENCH_LOG"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		size = n
	}
	dir := b.TempDir()
	open := func(name string, create int64) *disk.File {
		f, err := disk.OpenFile(filepath.Join(dir, name), disk.FileOptions{Create: create > 0, Size: create})
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	backing, log := open("d.img", 4<<30), open("d.img.jnbd", size)
	p := Parts{Backing: backing, Journal: log, Placement: jsuper.Beside}
	if _, err := Format(p, FormatOptions{DiskBytes: 4 << 30, JournalBytes: size, Mode: jsuper.Data}); err != nil {
		b.Fatal(err)
	}
	d, err := Open(p, Options{})
	if err != nil {
		b.Fatal(err)
	}
	// Nothing goes home meanwhile: whoever moves the tail must wait.
	d.checkpointMu.Lock()
	rng := rand.New(rand.NewPCG(1, 1))
	block := pattern(1, 4096)
	frames := 0
	for float64(d.log.Stats().Head-d.log.Stats().Tail) < 0.97*float64(d.logRoom) {
		if _, err := d.WriteAt(block, rng.Int64N(1<<20)*4096); err != nil {
			b.Fatal(err)
		}
		frames++
	}
	closeAll := func() { backing.Close(); log.Close() }
	closeAll() // the process is gone; its writes are in the page cache
	b.ReportMetric(float64(frames), "frames")
	for b.Loop() {
		backing, log = open("d.img", 0), open("d.img.jnbd", 0)
		p := Parts{Backing: backing, Journal: log, Placement: jsuper.Beside}
		again, err := Open(p, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		again.checkpointMu.Lock() // it must not change what the next round finds
		again.closing.Store(true)
		close(again.stopped)
		closeAll()
		again.checkpointMu.Unlock()
		again.background.Wait()
		b.StartTimer()
	}
	d.closing.Store(true)
	close(d.stopped)
	d.checkpointMu.Unlock()
	d.background.Wait()
}
