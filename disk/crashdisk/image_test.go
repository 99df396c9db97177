package crashdisk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// fill is n bytes of value b.
func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func write(t *testing.T, d *Disk, b byte, off int64, n int) {
	t.Helper()
	if _, err := d.WriteAt(fill(b, n), off); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
}

// holds fails unless all bytes of [off, off+n) are b, as content has them.
func holds(t *testing.T, what string, content []byte, off, n int, b byte) {
	t.Helper()
	if !bytes.Equal(content[off:off+n], fill(b, n)) {
		t.Errorf("%s: [%d,+%d) is not all %#x; it begins %#x", what, off, n, b, content[off:off+min(n, 8)])
	}
}

// Every fate of the model really occurs, within few seeds.
func TestEveryFateOccurs(t *testing.T) {
	d := New(64<<10, Options{})
	write(t, d, 1, 0, 64<<10)
	flush(t, d)
	write(t, d, 2, 0, 16<<10)       // torn at either size
	write(t, d, 3, 32<<10+100, 200) // older
	write(t, d, 4, 32<<10+200, 200) // newer; they share 100 bytes of a sector, where nothing tears
	write(t, d, 5, 60<<10+100, 10)  // within a sector
	if err := d.Zero(48<<10, 8<<10, true); err != nil {
		t.Fatal(err)
	}

	seen := map[string]int{}
	for seed, image := range d.Group().Images(200) {
		got := image.Lookup("disk").Snapshot()
		if !bytes.Equal(got, image.Lookup("disk").Medium()) && seed != SeedKill {
			t.Fatalf("seed %d: reads and medium differ after a power loss", seed)
		}
		switch page, mixed := pagesOf(got[:16<<10], 2); {
		case mixed:
			seen["torn at 512"]++
		case page == 0:
			seen["lost"]++
		case page == 4:
			seen["kept"]++
		default:
			seen["torn at 4096"]++
		}
		if older, shared, newer := got[32<<10+100], got[32<<10+200], got[32<<10+300]; older == 3 && newer == 4 {
			switch shared {
			case 3:
				seen["reordered"]++
			case 4:
				seen["in order"]++
			}
		}
		switch small := got[60<<10+100 : 60<<10+110]; {
		case bytes.Equal(small, fill(5, 10)):
			seen["small kept"]++
		case bytes.Equal(small, fill(1, 10)):
			seen["small lost"]++
		default:
			t.Fatalf("seed %d: a write within a sector is torn", seed)
		}
		switch page, mixed := pagesOf(got[48<<10:56<<10], 0); {
		case mixed, page == 1:
			seen["zero torn"]++
		case page == 2:
			seen["zero kept"]++
		default:
			seen["zero lost"]++
		}
		holds(t, "what no write touched", got, 16<<10, 16<<10, 1)
		holds(t, "what no write touched", got, 61<<10, 3<<10, 1)
	}
	for _, want := range []string{
		"kept", "lost", "torn at 512", "torn at 4096", "reordered", "in order", "small kept", "small lost",
		"zero kept", "zero lost", "zero torn",
	} {
		if seen[want] < 3 {
			t.Errorf("%s: %d of 200 images, want some", want, seen[want])
		}
	}
	t.Log(seen)
}

// pagesOf is how many whole pages of p are b, and whether any page is b in part.
func pagesOf(p []byte, b byte) (pages int, mixed bool) {
	for i := 0; i < len(p); i += pageSize {
		switch n := bytes.Count(p[i:i+pageSize], []byte{b}); n {
		case pageSize:
			pages++
		case 0:
		default:
			mixed = true
		}
	}
	return pages, mixed
}

// Many unflushed writes: there are images that lack exactly one, and that have exactly one.
func TestAllButOne(t *testing.T) {
	d := New(64<<10, Options{})
	for i := range 16 {
		write(t, d, 9, int64(i)*pageSize, pageSize)
	}
	seen := map[int]int{}
	for _, image := range d.Group().Images(200) {
		pages, _ := pagesOf(image.Lookup("disk").Snapshot(), 9)
		seen[pages]++
	}
	for _, pages := range []int{0, 1, 15, 16} {
		if seen[pages] == 0 {
			t.Errorf("no image of 200 has exactly %d of 16 writes: %v", pages, seen)
		}
	}
}

// The death of the process loses nothing, but makes nothing durable either.
func TestKillImage(t *testing.T) {
	g := NewGroup(7)
	d := g.Disk("d", 8192)
	write(t, d, 1, 0, 4096)
	flush(t, d)
	write(t, d, 2, 0, 8192)

	killed := g.KillImage()
	k := killed.Lookup("d")
	holds(t, "after the kill", k.Snapshot(), 0, 8192, 2)
	holds(t, "medium after the kill", k.Medium(), 0, 4096, 1)
	holds(t, "then a power loss", killed.Image(SeedLost).Lookup("d").Snapshot(), 0, 4096, 1)
	holds(t, "then a power loss", killed.Image(SeedLost).Lookup("d").Snapshot(), 4096, 4096, 0)
	flush(t, k)
	holds(t, "then a flush and a power loss", killed.Image(SeedLost).Lookup("d").Snapshot(), 0, 8192, 2)
	holds(t, "the original's medium", d.Medium(), 0, 4096, 1)
	if killed.Ops() != 1 || killed.Crashed() {
		t.Errorf("the image has %d operations (crashed %v), want its own flush alone", killed.Ops(), killed.Crashed())
	}
}

// Images and their original share pages, and yet nobody sees the writes of another.
func TestImagesAreIndependent(t *testing.T) {
	d := New(8192, Options{})
	write(t, d, 1, 0, 8192)
	flush(t, d)
	one, two := d.Group().Image(2).Lookup("disk"), d.Group().Image(3).Lookup("disk")
	write(t, d, 2, 100, 10)
	write(t, one, 3, 100, 10)
	if err := two.Zero(0, 8192, true); err != nil {
		t.Fatal(err)
	}
	again := one.Group().Image(SeedKill).Lookup("disk")
	write(t, one, 4, 100, 10)
	flush(t, one)
	for name, c := range map[string]struct {
		d    *Disk
		want byte
	}{"original": {d, 2}, "one": {one, 4}, "image of one": {again, 3}, "two": {two, 0}} {
		holds(t, name, c.d.Snapshot(), 100, 10, c.want)
	}
	holds(t, "medium of two", two.Medium(), 0, 8192, 1)
	holds(t, "medium of the original", d.Medium(), 0, 8192, 1)
}

// Any byte of an image is the durable one or one that an unflushed write had there; and the
// same calls with the same seed make the same image.
func TestImagesAreAllowed(t *testing.T) {
	const size = 40000
	for seed := range uint64(20) {
		var images [2][]byte
		for round := range images {
			random := rand.New(rand.NewPCG(seed, 0))
			d := New(size, Options{Seed: int64(seed)})
			durable := make([]byte, size)
			allowed := make([][]byte, size) // of unflushed writes
			newest := make([]byte, size)
			for b := byte(1); b < 60; b++ {
				off := random.Int64N(size)
				n := random.Int64N(size - off + 1)
				switch random.IntN(8) {
				case 0:
					flush(t, d)
					copy(durable, newest)
					clear(allowed)
				case 1:
					if err := d.Zero(off, n, random.IntN(2) == 0); err != nil {
						t.Fatal(err)
					}
					note(newest, allowed, off, n, 0)
				default:
					write(t, d, b, off, int(n))
					note(newest, allowed, off, n, b)
				}
			}
			if !bytes.Equal(d.Snapshot(), newest) || !bytes.Equal(d.Medium(), durable) {
				t.Fatalf("seed %d: reads or medium differ from the model", seed)
			}
			for imageSeed, image := range d.Group().Images(20) {
				got := image.Lookup("disk").Snapshot()
				for i, b := range got {
					if b != durable[i] && bytes.IndexByte(allowed[i], b) < 0 {
						t.Fatalf("seed %d, image %d: byte %d is %d, durable is %d, unflushed %v", seed, imageSeed, i, b, durable[i], allowed[i])
					}
				}
				images[round] = append(images[round], got...)
			}
		}
		if !bytes.Equal(images[0], images[1]) {
			t.Errorf("seed %d: the same calls made other images", seed)
		}
	}
}

func note(newest []byte, allowed [][]byte, off, n int64, b byte) {
	for i := off; i < off+n; i++ {
		newest[i] = b
		allowed[i] = append(allowed[i], b)
	}
}

// One image of 64 MiB, all of it written, with some unflushed writes.
func BenchmarkImage(b *testing.B) {
	d := New(64<<20, Options{})
	p := make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += 1 << 20 {
		if _, err := d.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Flush(); err != nil {
		b.Fatal(err)
	}
	for i := range int64(50) {
		if _, err := d.WriteAt(p[:4096], i*8192); err != nil {
			b.Fatal(err)
		}
	}
	seed := int64(0)
	for b.Loop() {
		seed++
		d.Group().Image(seed)
	}
}
