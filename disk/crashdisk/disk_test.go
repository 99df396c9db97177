package crashdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/disk"
)

// Random operations against a byte array, by the interfaces that the engine uses.
func TestDiskAgainstModel(t *testing.T) {
	const size = 100<<10 + 77
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		var d disk.Device = New(size, Options{})
		model := make([]byte, size)
		for step := range 300 {
			off := random.Int64N(size)
			n := random.Int64N(size - off + 1)
			part := model[off : off+n]
			var err error
			switch random.IntN(6) {
			case 0:
				copy(part, fill(byte(step), int(n)))
				_, err = d.WriteAt(part, off)
			case 1:
				copy(part, fill(byte(step), int(n)))
				err = disk.WriteV(d, [][]byte{part[:n/3], nil, part[n/3:]}, off)
			case 2:
				clear(part)
				err = disk.Zero(d, off, n, step%2 == 0)
			case 3:
				err = d.Flush()
			case 4:
				at := off
				err = disk.Extents(d, off, n, func(o, k int64, hole bool) bool {
					if o != at || hole && !bytes.Equal(model[o:o+k], make([]byte, k)) {
						t.Fatalf("seed %d step %d: extent [%d,+%d) hole %v after %d", seed, step, o, k, hole, at)
					}
					at += k
					return true
				})
				if at != off+n {
					t.Fatalf("seed %d step %d: extents end at %d, want %d", seed, step, at, off+n)
				}
			default:
				for name, read := range map[string]func(p []byte) error{
					"read":        func(p []byte) error { _, err := d.ReadAt(p, off); return err },
					"direct read": func(p []byte) error { _, err := disk.ReadDirect(d, p, off); return err },
					"cached read": func(p []byte) error { return disk.ReadCached(d, p, off) },
				} {
					p := fill(0xee, int(n))
					if err := read(p); err != nil || !bytes.Equal(p, part) {
						t.Fatalf("seed %d step %d: %s of [%d,+%d) differs (%v)", seed, step, name, off, n, err)
					}
				}
			}
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
	}
}

func TestZeroAndHoles(t *testing.T) {
	d := New(5*pageSize, Options{})
	write(t, d, 1, pageSize, 3*pageSize)
	for _, z := range []struct {
		off, n int64
		punch  bool
	}{{2 * pageSize, pageSize, true}, {3*pageSize - 10, 20, true}, {5*pageSize - 5, 5, false}} {
		if err := d.Zero(z.off, z.n, z.punch); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	if err := d.Extents(0, d.Size(), func(off, n int64, hole bool) bool {
		got = append(got, fmt.Sprint(off/pageSize, n/pageSize, hole))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"0 1 true", "1 1 false", "2 1 true", "3 2 false"}; !slices.Equal(got, want) {
		t.Errorf("extents %q, want %q", got, want)
	}
}

func TestOutOfRange(t *testing.T) {
	d := New(4096, Options{})
	_, read := d.ReadAt(make([]byte, 2), 4095)
	_, direct := d.ReadDirectAt(make([]byte, 2), 4095)
	_, wrote := d.WriteAt(make([]byte, 2), 4095)
	_, gathered := d.WriteVAt([][]byte{{1}, {2}}, 4095)
	for name, err := range map[string]error{
		"read": read, "direct read": direct, "write": wrote, "gather": gathered, "zero": d.Zero(4095, 2, true),
		"cached read": d.ReadCachedAt(make([]byte, 2), 4095), "extents": d.Extents(4095, 2, nil),
	} {
		if !errors.Is(err, disk.ErrOutOfRange) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if d.Group().Ops() != 0 || d.Group().Reads() != 0 {
		t.Errorf("refused calls were counted: %d operations, %d reads", d.Group().Ops(), d.Group().Reads())
	}
}

// The caller may use its buffers again as soon as a write returns.
func TestBuffersAreNotKept(t *testing.T) {
	d := New(4096, Options{})
	p := fill(1, 10)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	copy(p, fill(2, 10))
	flush(t, d)
	holds(t, "medium", d.Medium(), 0, 10, 1)
}

func TestUncached(t *testing.T) {
	d := New(4096, Options{Uncached: true})
	if err := d.ReadCachedAt(make([]byte, 1), 0); !errors.Is(err, disk.ErrNotCached) {
		t.Errorf("got %v", err)
	}
	image := d.Group().Image(2).Lookup("disk")
	if err := image.ReadCachedAt(make([]byte, 1), 0); !errors.Is(err, disk.ErrNotCached) {
		t.Errorf("the image forgot it: %v", err)
	}
	image.SetUncached(false)
	if err := image.ReadCachedAt(make([]byte, 1), 0); err != nil {
		t.Errorf("taken back: %v", err)
	}
}

// A flush covers its own disk, and of that only what had returned when it was called.
func TestFlushCovers(t *testing.T) {
	g := NewGroup(1)
	a, b := g.Disk("a", 4096), g.Disk("b", 4096)
	write(t, a, 1, 0, 4096)
	write(t, b, 1, 0, 4096)
	flush(t, a)
	lost := g.Image(SeedLost)
	holds(t, "the flushed disk", lost.Lookup("a").Snapshot(), 0, 4096, 1)
	holds(t, "the other disk", lost.Lookup("b").Snapshot(), 0, 4096, 0)
}

// stallAt holds operation k of a group between its number and its effect: reached is closed
// when it is there, and closing release lets it go.
func stallAt(g *Group, k int) (reached, release chan struct{}) {
	reached, release = make(chan struct{}), make(chan struct{})
	g.OnOp(func(at int, _ string) {
		if at == k {
			close(reached)
			<-release
		}
	})
	return reached, release
}

func TestWriteDuringAFlushIsNotCovered(t *testing.T) {
	d := New(8192, Options{})
	g := d.Group()
	write(t, d, 1, 0, 4096)
	reached, release := stallAt(g, 2)
	done := make(chan error)
	go func() { done <- d.Flush() }() // ends when released
	<-reached
	write(t, d, 2, 4096, 4096) // returns while the flush runs
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := g.Image(SeedLost).Lookup("disk").Snapshot()
	holds(t, "written before", got, 0, 4096, 1)
	holds(t, "written beside", got, 4096, 4096, 0)
	flush(t, d)
	holds(t, "after the next flush", g.Image(SeedLost).Lookup("disk").Snapshot(), 4096, 4096, 2)
}

func TestWriteInFlightIsNotCovered(t *testing.T) {
	d := New(8192, Options{})
	g := d.Group()
	write(t, d, 1, 0, 8192)
	reached, release := stallAt(g, 2)
	done := make(chan error)
	go func() { _, err := d.WriteAt(fill(2, 8192), 0); done <- err }() // ends when released
	<-reached
	holds(t, "reads before it returns", d.Snapshot(), 0, 8192, 1)
	flush(t, d)
	seen := map[byte]bool{}
	for seed, image := range g.Images(50) {
		if seed != SeedKill {
			seen[image.Lookup("disk").Snapshot()[0]] = true
		}
	}
	if !seen[1] || !seen[2] {
		t.Errorf("images with the write in flight lost and kept: %v, want both", seen)
	}
	g.Crash()
	close(release)
	if err := <-done; !errors.Is(err, ErrCrashed) {
		t.Errorf("the write that was in flight: %v", err)
	}
	holds(t, "after its release", d.Snapshot(), 0, 8192, 1)
}

// A second flush that overtakes the first leaves it nothing to do, and nothing undone.
func TestOverlappingFlushes(t *testing.T) {
	d := New(4096, Options{})
	write(t, d, 1, 0, 512)
	reached, release := stallAt(d.Group(), 2)
	done := make(chan error)
	go func() { done <- d.Flush() }() // ends when released
	<-reached
	write(t, d, 2, 0, 512)
	flush(t, d)
	write(t, d, 3, 0, 512)
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	holds(t, "medium", d.Medium(), 0, 512, 2)
	holds(t, "reads", d.Snapshot(), 0, 512, 3)
}

// workload is six operations on two disks.
func workload(g *Group) error {
	a, b := g.Disk("a", 8192), g.Disk("b", 8192)
	_, err := a.WriteAt(fill(1, 4096), 0)
	for _, step := range []func() error{
		a.Flush,
		func() error { _, err := b.WriteVAt([][]byte{fill(2, 512), fill(2, 512)}, 0); return err },
		func() error { return b.Zero(512, 512, true) },
		b.Flush,
		func() error { _, err := a.WriteAt(fill(3, 4096), 4096); return err },
	} {
		if err == nil {
			err = step()
		}
	}
	return err
}

// Crash at k, for each k: what had been flushed is there, and what came after k is not.
func TestCrashAt(t *testing.T) {
	infos := []string{
		"write a [0x0,+4096)", "flush a", "write b [0x0,+1024)", "zero b [0x200,+512)", "flush b", "write a [0x1000,+4096)",
	}
	for k := 1; ; k++ {
		g := NewGroup(0)
		g.CrashAt(k)
		err := workload(g)
		if !g.Crashed() {
			if err != nil || k != len(infos)+1 {
				t.Errorf("no crash at %d of %d operations: %v", k, len(infos), err)
			}
			return
		}
		if !errors.Is(err, ErrCrashed) || g.Ops() != k || g.OpInfo(k) != infos[k-1] {
			t.Errorf("crash at %d: %v after %d operations, at %q, want %q", k, err, g.Ops(), g.OpInfo(k), infos[k-1])
		}
		a := g.Disk("a", 8192)
		_, read := a.ReadAt(make([]byte, 1), 0)
		_, direct := a.ReadDirectAt(make([]byte, 1), 0)
		_, wrote := a.WriteAt([]byte{1}, 0)
		for what, err := range map[string]error{
			"read": read, "direct read": direct, "write": wrote, "flush": a.Flush(), "zero": a.Zero(0, 1, false),
			"cached read": a.ReadCachedAt(make([]byte, 1), 0), "extents": a.Extents(0, 1, nil),
		} {
			if !errors.Is(err, ErrCrashed) {
				t.Errorf("%s after the crash: %v", what, err)
			}
		}
		if g.Ops() != k {
			t.Errorf("operations are counted after the crash: %d, want %d", g.Ops(), k)
		}
		union := map[string]bool{} // of where 100 images are not zero
		for seed, image := range g.Images(100) {
			a, b := image.Disk("a", 8192).Snapshot(), image.Disk("b", 8192).Snapshot()
			if seed == SeedKill { // it has everything, which proves nothing
				continue
			}
			union["a first half"] = union["a first half"] || bytes.IndexByte(a[:4096], 1) >= 0
			union["a second half"] = union["a second half"] || bytes.IndexByte(a[4096:], 3) >= 0
			union["b"] = union["b"] || bytes.IndexByte(b, 2) >= 0
			if k > 2 {
				holds(t, fmt.Sprintf("crash at %d, seed %d: flushed a", k, seed), a, 0, 4096, 1)
			}
			if k > 5 {
				holds(t, fmt.Sprintf("crash at %d, seed %d: flushed b", k, seed), b, 0, 512, 2)
				holds(t, fmt.Sprintf("crash at %d, seed %d: zeroed b", k, seed), b, 512, 512, 0)
			}
		}
		// The operation of the crash is in flight: some image has it. Later ones are not.
		for what, from := range map[string]int{"a first half": 1, "b": 3, "a second half": 6} {
			if union[what] != (k >= from) {
				t.Errorf("crash at %d: %s written in some image: %v, want %v", k, what, union[what], k >= from)
			}
		}
		if k == 2 { // a flush in flight has made nothing durable
			holds(t, "all lost at the flush", g.Image(SeedLost).Lookup("a").Snapshot(), 0, 8192, 0)
		}
	}
}

// The image of a crash can crash again, at each of its own operations.
func TestCrashOfAnImage(t *testing.T) {
	g := NewGroup(3)
	g.CrashAt(6)
	_ = workload(g)
	image := g.Image(5)
	image.CrashAt(1)
	if err := workload(image); !errors.Is(err, ErrCrashed) || image.Ops() != 1 {
		t.Errorf("got %v after %d operations", err, image.Ops())
	}
	second := image.Image(SeedLost)
	if err := workload(second); err != nil || second.Ops() != 6 {
		t.Errorf("got %v after %d operations", err, second.Ops())
	}
}

func TestGroupDisk(t *testing.T) {
	g := NewGroup(0)
	d := g.Disk("d", 100)
	if g.Disk("d", 100) != d || g.Lookup("d") != d || g.Lookup("e") != nil || d.Name() != "d" || d.Group() != g {
		t.Error("a disk is not found by its name")
	}
	if info := g.OpInfo(1); info != "no operation 1" {
		t.Errorf("operation that never was: %q", info)
	}
	defer func() {
		if recover() == nil {
			t.Error("a disk of another size: no panic")
		}
	}()
	g.Disk("d", 101)
}

// A failing write tells so, and leaves nothing, everything, or a part, which is then as
// good as any write. Tried at both errors a kernel gives.
func TestFailingWrite(t *testing.T) {
	for _, cause := range []error{unix.EIO, unix.ENOSPC} {
		seen := map[string]bool{}
		for seed := range int64(60) {
			d := New(16<<10, Options{Seed: seed})
			g := d.Group()
			g.FailAt(2, cause)
			write(t, d, 1, 0, 16<<10)
			n, err := d.WriteAt(fill(2, 8<<10), 2048)
			if n != 0 || !errors.Is(err, cause) || !g.Failed() {
				t.Fatalf("got %d, %v (failed %v)", n, err, g.Failed())
			}
			got := d.Snapshot()
			holds(t, "before it", got, 0, 2048, 1)
			holds(t, "after it", got, 10<<10, 6<<10, 1)
			switch n := bytes.Count(got, []byte{2}); {
			case n == 0:
				seen["nothing"] = true
			case n == 8<<10:
				seen["everything"] = true
			case n%512 == 0:
				seen["a part"] = true
			default:
				t.Fatalf("seed %d: %d bytes, no whole sectors", seed, n)
			}
			flush(t, d)
			if !bytes.Equal(d.Medium(), got) {
				t.Errorf("seed %d: a flush made something else durable", seed)
			}
		}
		if len(seen) != 3 {
			t.Errorf("%v: 60 seeds left only %v", cause, seen)
		}
	}
	d := New(4096, Options{})
	d.Group().FailAt(1, unix.EIO)
	if err := d.Zero(0, 4096, true); !errors.Is(err, unix.EIO) {
		t.Errorf("failing zero: %v", err)
	}
}

// A failing flush drops the dirty pages: no later flush makes them durable, and reads say
// what the chosen kernel says.
func TestFailingFlush(t *testing.T) {
	for _, fault := range []FlushFault{KeepPages, EvictPages} {
		some := 0
		for seed := range int64(40) {
			d := New(32<<10, Options{Seed: seed, FlushFault: fault})
			g := d.Group()
			write(t, d, 1, 0, 32<<10)
			flush(t, d)
			for i := range int64(4) {
				write(t, d, 2, i*4096, 4096)
			}
			g.FailAt(g.Ops()+1, unix.EIO)
			if err := d.Flush(); !errors.Is(err, unix.EIO) || !g.Failed() {
				t.Fatalf("got %v (failed %v)", err, g.Failed())
			}
			medium := d.Medium()
			reached, _ := pagesOf(medium[:16<<10], 2)
			if reached > 3 {
				t.Fatalf("seed %d: all pages reached the medium, so that nothing has failed", seed)
			}
			if reached > 0 {
				some++
			}
			direct := make([]byte, 32<<10)
			if _, err := d.ReadDirectAt(direct, 0); err != nil || !bytes.Equal(direct, medium) {
				t.Errorf("seed %d: a direct read differs from the medium (%v)", seed, err)
			}
			if got := d.Snapshot(); fault == KeepPages {
				holds(t, "reads with the pages kept", got, 0, 16<<10, 2)
			} else if !bytes.Equal(got, medium) {
				t.Errorf("seed %d: reads with the pages evicted differ from the medium", seed)
			}
			if fault == KeepPages {
				killed := g.KillImage().Lookup("disk")
				holds(t, "reads of the next process", killed.Snapshot(), 0, 16<<10, 2)
				flush(t, killed)
				if !bytes.Equal(killed.Medium(), medium) {
					t.Errorf("seed %d: a flush of the next process brought dropped pages back", seed)
				}
			}
			write(t, d, 3, 16<<10, 4096)
			flush(t, d) // succeeds, as the kernel's does
			copy(medium[16<<10:], fill(3, 4096))
			if !bytes.Equal(d.Medium(), medium) {
				t.Errorf("seed %d: the next flush made other things durable than the write after the failed one", seed)
			}
			for i, image := range g.Images(5) {
				if i != SeedKill && !bytes.Equal(image.Lookup("disk").Snapshot(), medium) {
					t.Errorf("seed %d, image %d: differs from the medium", seed, i)
				}
			}
		}
		if some == 0 || some == 40 {
			t.Errorf("fault %d: a part reached the medium with %d of 40 seeds, want some", fault, some)
		}
	}
}

// Pages evicted by a failed flush don't take with them what was written beside it.
func TestFailingFlushSparesLaterWrites(t *testing.T) {
	d := New(8192, Options{FlushFault: EvictPages})
	g := d.Group()
	write(t, d, 1, 0, 4096)
	g.FailAt(2, unix.EIO)
	reached, release := stallAt(g, 2)
	done := make(chan error)
	go func() { done <- d.Flush() }() // ends when released
	<-reached
	write(t, d, 2, 4096, 4096)
	close(release)
	if err := <-done; !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	holds(t, "dropped", d.Snapshot(), 0, 4096, 0)
	holds(t, "written beside", d.Snapshot(), 4096, 4096, 2)
	flush(t, d)
	holds(t, "written beside, flushed", d.Medium(), 4096, 4096, 2)
}

func TestFailingRead(t *testing.T) {
	d := New(4096, Options{})
	g := d.Group()
	g.FailReadAt(2, unix.EIO)
	p := make([]byte, 10)
	if _, err := d.ReadAt(p, 0); err != nil || g.Failed() {
		t.Errorf("first read: %v", err)
	}
	if err := d.ReadCachedAt(p, 0); err != nil {
		t.Errorf("a cached read doesn't count: %v", err)
	}
	if _, err := d.ReadDirectAt(p, 0); !errors.Is(err, unix.EIO) || !g.Failed() {
		t.Errorf("second read: %v", err)
	}
	if _, err := d.ReadAt(p, 0); err != nil || g.Reads() != 3 {
		t.Errorf("third read: %v, count %d", err, g.Reads())
	}
}

func TestOnOp(t *testing.T) {
	g := NewGroup(0)
	var got []string
	g.OnOp(func(k int, operation string) {
		got = append(got, fmt.Sprintf("%d %s", k, operation))
		if k == 3 {
			g.OnOp(nil)
		}
	})
	if err := workload(g); err != nil {
		t.Fatal(err)
	}
	want := []string{"1 write a [0x0,+4096)", "2 flush a", "3 write b [0x0,+1024)"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
