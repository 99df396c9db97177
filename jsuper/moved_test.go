package jsuper

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"jnbd/disk"
)

// TestResized: slots that are at the end of a device which is not the one they were made for.
func TestResized(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  int64 // of the device's size
		wantErr error
	}{
		{"shrunk by a slot", -slotBytes, ErrShrunk},
		{"grown by a slot", slotBytes, ErrChanged},
	} {
		t.Run(test.name, func(t *testing.T) {
			dev := disk.NewMem(sampleDevice + test.change)
			sb := internalSample()
			sb.Generation = 1
			if _, err := dev.WriteAt(encode(sb), dev.Size()-slotBytes); err != nil {
				t.Fatal(err)
			}
			expectProbe(t, dev, Internal, 0, test.wantErr, "restore its size of 1114112 bytes")
			if _, err := Probe(dev, Internal); errors.Is(err, ErrCorrupt) {
				t.Errorf("%v: a device of another size is no corruption", err)
			}
			if err := NewStore(disk.NewMem(dev.Size()), Internal).Save(sb); !errors.Is(err, test.wantErr) {
				t.Errorf("Save: %v, want %v", err, test.wantErr)
			}
		})
	}
}

// TestFindMoved: the slots that a resize left behind are found, and nothing else is.
func TestFindMoved(t *testing.T) {
	inside := contents(t, saved(t, internalSample(), 3))
	unknown := internalSample()
	unknown.DeviceBytes = 0
	nested := append(make([]byte, 12288), inside...)
	copies := append(make([]byte, movedLine), contents(t, saved(t, unknown, 1))...)
	for _, test := range []struct {
		name    string
		content []byte
		size    int64  // of the device
		want    uint64 // generation; 0: nothing
		at      int64
	}{
		{"as made", inside, sampleDevice, 0, 0},
		{"grown by a line", inside, sampleDevice + 512, 3, sampleDevice - 8192},
		{"grown by much, a hole", inside, sampleDevice + 2*movedWindow, 3, sampleDevice - 8192},
		{"shrunk by a slot", inside, sampleDevice - 4096, 3, sampleDevice - 8192},
		{"shrunk by all", inside, sampleDevice - 8192, 0, 0},
		{"somebody else's image", nested, sampleDevice + 10<<20, 0, 0},
		{"size not known", copies, sampleDevice + 10<<20, 1, sampleDevice + movedLine - 8192},
		{"beside", contents(t, saved(t, sample(), 3)), sampleDevice + 4096, 0, 0},
		{"nothing", nil, 1 << 20, 0, 0},
		{"no bytes", nil, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			dev := disk.NewMem(test.size)
			if _, err := dev.WriteAt(test.content[:min(test.size, int64(len(test.content)))], 0); err != nil {
				t.Fatal(err)
			}
			sb, at, err := FindMoved(dev)
			if err != nil {
				t.Fatal(err)
			}
			if got := generationOf(sb); got != test.want || at != test.at {
				t.Errorf("found generation %d at %d, want %d at %d", got, at, test.want, test.at)
			}
		})
	}
}

// TestFindMovedBeforeHole: an image file that grew by far more than the window.
func TestFindMovedBeforeHole(t *testing.T) {
	dev := holeBehind{disk.NewMem(sampleDevice + 3*movedWindow), sampleDevice}
	if _, err := dev.WriteAt(contents(t, saved(t, internalSample(), 2)), 0); err != nil {
		t.Fatal(err)
	}
	if sb, at, err := FindMoved(dev); err != nil || generationOf(sb) != 2 || at != sampleDevice-4096 {
		t.Errorf("found %+v at %d (%v), want generation 2 at %d", sb, at, err, sampleDevice-4096)
	}
}

// TestFindMovedReadError is not "nothing".
func TestFindMovedReadError(t *testing.T) {
	broken := errors.New("medium error")
	if _, _, err := FindMoved(failingReads{disk.NewMem(1 << 20), broken}); !errors.Is(err, broken) {
		t.Errorf("FindMoved: %v, want %v", err, broken)
	}
}

// TestReadSlotsDirect: what the cache says does not count.
func TestReadSlotsDirect(t *testing.T) {
	medium := saved(t, sample(), 3)
	dev := &cachedOver{medium, bytes.Clone(contents(t, medium))}
	dev.cache[100] ^= 1
	slots, err := ReadSlotsDirect(dev, Beside)
	if err != nil || slots[0].Err != nil || slots[1].Err != nil {
		t.Errorf("direct: %v %v %v, want two good slots", err, slots[0].Err, slots[1].Err)
	}
	if slots, err := ReadSlots(dev, Beside); err != nil || slots[0].Err == nil || !strings.Contains(slots[0].Err.Error(), "checksum") {
		t.Errorf("from the cache: %v %v, want a wrong checksum", err, slots[0].Err)
	}
}

func generationOf(sb *Superblock) uint64 {
	if sb == nil {
		return 0
	}
	return sb.Generation
}

// contents is all of a device.
func contents(t *testing.T, dev disk.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// holeBehind is a device that knows of a hole from an offset on.
type holeBehind struct {
	disk.Device
	from int64
}

func (h holeBehind) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	if visit(off, h.from-off, false) {
		visit(h.from, off+n-h.from, true)
	}
	return nil
}

// cachedOver is a device whose cache may differ from its medium.
type cachedOver struct {
	disk.Device
	cache []byte
}

func (c *cachedOver) ReadAt(p []byte, off int64) (int, error) { return copy(p, c.cache[off:]), nil }

func (c *cachedOver) ReadDirectAt(p []byte, off int64) (int, error) { return c.Device.ReadAt(p, off) }
