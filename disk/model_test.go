package disk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// plain hides every capability of a device, so that the fallbacks have to do.
type plain struct{ Device }

// Random operations on every device of this package, each against a plain byte array.
func TestDevicesAgainstModel(t *testing.T) {
	const size = 700<<10 + 300 // no whole number of any page
	open := func(t *testing.T) *File {
		f, err := OpenFile(filepath.Join(t.TempDir(), "image"), FileOptions{Create: true, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	devices := map[string]func(t *testing.T) Device{
		"mem":             func(*testing.T) Device { return NewMem(size) },
		"plain mem":       func(*testing.T) Device { return plain{NewMem(size)} },
		"file":            func(t *testing.T) Device { return open(t) },
		"plain file":      func(t *testing.T) Device { return plain{open(t)} },
		"region":          func(*testing.T) Device { return Region(NewMem(2*size), 12345, size) },
		"plain region":    func(*testing.T) Device { return Region(plain{NewMem(2 * size)}, 12345, size) },
		"region of it":    func(*testing.T) Device { return Region(Region(NewMem(3*size), 512, 2*size), 512, size) },
		"region of file":  func(t *testing.T) Device { return Region(open(t), 0, size) },
		"file as a block": func(t *testing.T) Device { return asBlockDevice(open(t)) },
	}
	for name, make := range devices {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				runModel(t, make(t), seed)
			}
		})
	}
}

func runModel(t *testing.T, dev Device, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	model := make([]byte, dev.Size())
	check := func(step int, what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d step %d: %s: %v", seed, step, what, err)
		}
	}
	for step := range 200 {
		off := random.Int64N(dev.Size())
		n := random.Int64N(min(dev.Size()-off, 1<<(1+random.IntN(20))) + 1)
		part := model[off : off+n]
		switch op := random.IntN(8); op {
		case 0, 1:
			fillRandom(random, part)
			_, err := dev.WriteAt(part, off)
			check(step, "write", err)
		case 2:
			fillRandom(random, part)
			check(step, "gather", WriteV(dev, cut(random, part), off))
		case 3, 4:
			clear(part)
			check(step, "zero", Zero(dev, off, n, op == 3))
		case 5:
			check(step, "flush", dev.Flush())
			check(step, "allocate", Allocate(dev, off, n))
		case 6:
			checkExtents(t, dev, model, off, n)
		default:
			got := bytes.Repeat([]byte{0xee}, int(n))
			k, err := dev.ReadAt(got, off)
			check(step, "read", err)
			if k != int(n) || !bytes.Equal(got, part) {
				t.Fatalf("seed %d step %d: read of %d bytes at %d differs from the model", seed, step, n, off)
			}
			clear(got)
			_, err = ReadDirect(dev, got, off)
			check(step, "direct read", err)
			if !bytes.Equal(got, part) {
				t.Fatalf("seed %d step %d: direct read of %d bytes at %d differs from the model", seed, step, n, off)
			}
			if err := ReadCached(dev, got, off); !errors.Is(err, ErrNotCached) {
				check(step, "cached read", err)
				if !bytes.Equal(got, part) {
					t.Fatalf("seed %d step %d: cached read of %d bytes at %d differs from the model", seed, step, n, off)
				}
			}
		}
	}
	got := make([]byte, dev.Size())
	_, err := dev.ReadAt(got, 0)
	check(-1, "read all", err)
	if !bytes.Equal(got, model) {
		t.Fatalf("seed %d: the device differs from the model at the end", seed)
	}
}

// checkExtents holds the extents of a range against each other and against the content:
// they cover it exactly, and holes are zeros.
func checkExtents(t *testing.T, dev Device, model []byte, off, n int64) {
	t.Helper()
	at := off
	err := Extents(dev, off, n, func(o, k int64, hole bool) bool {
		if o != at || k <= 0 || o+k > off+n {
			t.Fatalf("extent [%d,+%d) after %d in [%d,+%d)", o, k, at, off, n)
		}
		if hole && !bytes.Equal(model[o:o+k], make([]byte, k)) {
			t.Fatalf("extent [%d,+%d) is a hole and holds data", o, k)
		}
		at += k
		return true
	})
	if err != nil || at != off+n {
		t.Fatalf("extents of [%d,+%d) end at %d: %v", off, n, at, err)
	}
}

func fillRandom(random *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(random.Uint32())
	}
}

// cut is p in some pieces, some of them empty.
func cut(random *rand.Rand, p []byte) (bufs [][]byte) {
	for len(p) > 0 {
		n := random.IntN(min(len(p), 4096) + 1)
		bufs = append(bufs, p[:n])
		p = p[n:]
	}
	return bufs
}
