package jsuper

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"jnbd/disk"
)

// TestProbeDamage damages a journal that was saved three times (generation 3 in slot 0,
// generation 2 in slot 1) and holds what Probe then says.
func TestProbeDamage(t *testing.T) {
	type slots struct{ newest, older []byte }
	zero := func(b []byte) { clear(b) }
	foreign := func(b []byte) { copy(b, bytes.Repeat([]byte("somebody else's"), 300)) }
	flip := func(off int) func([]byte) { return func(b []byte) { b[off] ^= 1 } }
	tests := []struct {
		name    string
		damage  func(s slots)
		want    uint64 // the generation found, or 0
		wantErr error
		text    string // part of the error
	}{
		{"none", func(s slots) {}, 3, nil, ""},
		{"newest zeroed", func(s slots) { zero(s.newest) }, 2, nil, ""},
		{"newest foreign", func(s slots) { foreign(s.newest) }, 2, nil, ""},
		{"newest torn at 512", func(s slots) { clear(s.newest[512:]) }, 2, nil, ""},
		{"newest one bit", func(s slots) { flip(300)(s.newest) }, 2, nil, ""},
		{"older zeroed", func(s slots) { zero(s.older) }, 3, nil, ""},
		{"older foreign", func(s slots) { foreign(s.older) }, 3, nil, ""},
		{"older one bit", func(s slots) { flip(4000)(s.older) }, 3, nil, ""},
		{"both one bit", func(s slots) { flip(300)(s.newest); flip(9)(s.older) }, 0, ErrCorrupt, "slot 0 at 0: journal superblock is corrupt: checksum"},
		{"bit and zero", func(s slots) { flip(300)(s.newest); zero(s.older) }, 0, ErrCorrupt, "slot 1 at 4096: no jnbd journal here: all zero"},
		{"bit in the magic and zero", func(s slots) { flip(3)(s.newest); zero(s.older) }, 0, ErrCorrupt, "magic 8a6a6e63"},
		{"foreign and bit", func(s slots) { foreign(s.newest); flip(300)(s.older) }, 0, ErrCorrupt, "foreign content"},
		{"both zero", func(s slots) { zero(s.newest); zero(s.older) }, 0, ErrNoJournal, "all zero"},
		{"both foreign", func(s slots) { foreign(s.newest); foreign(s.older) }, 0, ErrNoJournal, "foreign content, begins 736f6d65626f6479"},
		{"foreign and zero", func(s slots) { foreign(s.newest); zero(s.older) }, 0, ErrNoJournal, "foreign content"},
		{"same generation, other content", func(s slots) {
			putInt64(s.older[offGeneration:], 3)
			s.older[offNode]++
			seal(s.older)
		}, 0, ErrCorrupt, "both slots have generation 3 and differ"},
		{"same slot twice", func(s slots) { copy(s.older, s.newest) }, 3, nil, ""},
		{"two disks", func(s slots) { s.older[offDiskUUID]++; seal(s.older) }, 0, ErrCorrupt, "two disks"},
		{"newest sealed, field wrong", func(s slots) { s.newest[offMode] = 9; seal(s.newest) }, 0, ErrCorrupt, "slot 0 at 0: journal superblock is corrupt: mode 9"},
		{"newest sealed, reserved byte", func(s slots) { s.newest[4095] = 9; seal(s.newest) }, 0, ErrCorrupt, "reserved byte 4095"},
		{"older sealed, field wrong", func(s slots) { s.older[offMode] = 9; seal(s.older) }, 3, nil, ""},
		{"newest of the other placement", func(s slots) { s.newest[offPlacement] = byte(Internal); seal(s.newest) }, 0, ErrCorrupt, "log offset"},
		{"version 0", func(s slots) { s.newest[offVersion] = 0; seal(s.newest) }, 0, ErrCorrupt, "format version 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dev := saved(t, sample(), 3)
			b := content(t, dev)
			test.damage(slots{newest: b[:slotBytes], older: b[slotBytes:ReservedBytes]})
			if _, err := dev.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
			expectProbe(t, dev, Beside, test.want, test.wantErr, test.text)
			if !bytes.Equal(content(t, dev), b) {
				t.Error("Probe changed the device")
			}
		})
	}
}

// expectProbe holds what Probe says.
func expectProbe(t *testing.T, dev disk.Device, placement Placement, generation uint64, wantErr error, text string) {
	t.Helper()
	sb, err := Probe(dev, placement)
	switch {
	case !errors.Is(err, wantErr) || (wantErr == nil) != (err == nil):
		t.Errorf("Probe: %v, want %v", err, wantErr)
	case err != nil && !strings.Contains(err.Error(), text):
		t.Errorf("Probe: %v, want a text with %q", err, text)
	case err == nil && sb.Generation != generation:
		t.Errorf("Probe: generation %d, want %d", sb.Generation, generation)
	}
	for _, other := range []error{ErrNoJournal, ErrCorrupt, ErrTooNew, ErrReadOnlyFormat} {
		if other != wantErr && errors.Is(err, other) {
			t.Errorf("Probe: %v is %q as well", err, other)
		}
	}
}

// TestNextVersion writes slots as a later version will: "too new" must not look like
// damage, and must never be answered by falling back to an older slot.
func TestNextVersion(t *testing.T) {
	nextVersion := func(b []byte) {
		le.PutUint32(b[offVersion:], version+1)
		for i := offDiskUUID; i < slotBytes; i++ {
			b[i] = 0xff // a layout of which we know nothing
		}
		seal(b)
	}
	tests := []struct {
		name    string
		change  func(newest, older []byte)
		want    uint64 // generation
		wantErr error  // of Probe
		loadErr error  // of Store.Load, where it is another
		text    string
	}{
		{"newest of the next version", func(n, o []byte) { nextVersion(n) }, 0, ErrTooNew, nil, "format version 2, this program knows up to 1"},
		{"both of the next version", func(n, o []byte) { nextVersion(n); nextVersion(o) }, 0, ErrTooNew, nil, "format version 2"},
		{"newest of the next version, older lost", func(n, o []byte) { nextVersion(n); clear(o) }, 0, ErrTooNew, nil, "format version 2"},
		{"version 2^32-1", func(n, o []byte) { le.PutUint32(n[offVersion:], 1<<32-1); seal(n) }, 0, ErrTooNew, nil, "4294967295"},
		{"next version, torn", func(n, o []byte) { nextVersion(n); n[1000] = 0 }, 2, nil, nil, ""},
		{"both next version, both damaged", func(n, o []byte) { nextVersion(n); n[1000] = 0; nextVersion(o); o[1000] = 0 }, 0, ErrCorrupt, nil, "checksum"},
		{"taken back by its writer", func(n, o []byte) { nextVersion(o) }, 3, nil, nil, ""},
		{"incompatible feature", func(n, o []byte) { le.PutUint64(n[offIncompat:], 1<<40); seal(n) }, 0, ErrTooNew, nil, "features 0x10000000000"},
		{"read-only feature", func(n, o []byte) { le.PutUint64(n[offROCompat:], 2); seal(n) }, 3, nil, ErrReadOnlyFormat, "features 0x2"},
		{"compatible feature", func(n, o []byte) { le.PutUint64(n[offCompat:], 1<<63); seal(n) }, 3, nil, nil, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dev := saved(t, sample(), 3)
			b := content(t, dev)
			test.change(b[:slotBytes], b[slotBytes:ReservedBytes])
			if _, err := dev.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
			expectProbe(t, dev, Beside, test.want, test.wantErr, test.text)

			loadErr := test.loadErr
			if loadErr == nil {
				loadErr = test.wantErr
			}
			s := NewStore(dev, Beside)
			if _, err := s.Load(); !errors.Is(err, loadErr) || (err == nil) != (loadErr == nil) {
				t.Errorf("Load: %v, want %v", err, loadErr)
			}
			if loadErr == nil {
				return
			}
			if err := s.Save(sample()); !errors.Is(err, loadErr) {
				t.Errorf("Save: %v, want %v", err, loadErr)
			}
			if !bytes.Equal(content(t, dev), b) {
				t.Error("a refused journal was changed")
			}
		})
	}
}

// TestPlacement holds where slots are looked for, on devices of all lengths.
func TestPlacement(t *testing.T) {
	full := content(t, saved(t, sample(), 1)) // slot 0 only
	twice := content(t, saved(t, sample(), 2))
	inside := content(t, saved(t, internalSample(), 2))
	tests := []struct {
		name      string
		content   []byte
		placement Placement
		want      uint64
		wantErr   error
		text      string
	}{
		{"beside", twice, Beside, 2, nil, ""},
		{"beside, grown", append(bytes.Clone(twice), make([]byte, 777)...), Beside, 2, nil, ""},
		{"beside, nothing", nil, Beside, 0, ErrNoJournal, "all zero"},
		{"beside, one byte", twice[:1], Beside, 0, ErrNoJournal, "foreign"},
		{"beside, cut in slot 0", twice[:3000], Beside, 0, ErrCorrupt, "the device ends inside this slot, at 3000: it was truncated"},
		{"beside, cut behind slot 0", full[:slotBytes], Beside, 0, ErrCorrupt, "log ends at 1114112, but there is room up to 4096 only: the journal was truncated"},
		{"beside, cut in slot 1", twice[:5000], Beside, 0, ErrCorrupt, "log ends at 1114112, but there is room up to 5000 only"},
		{"beside, cut in the log", twice[:sampleDevice-1], Beside, 0, ErrCorrupt, "truncated"},
		{"internal", inside, Internal, 2, nil, ""},
		{"internal, shrunk", inside[:sampleDevice-4096-1], Internal, 0, ErrNoJournal, ""},
		{"internal, grown", append(bytes.Clone(inside), make([]byte, 8192)...), Internal, 0, ErrNoJournal, "all zero"},
		{"internal, too small", make([]byte, ReservedBytes-1), Internal, 0, ErrNoJournal, "device of 8191 bytes"},
		{"internal, found beside", twice, Internal, 0, ErrNoJournal, ""},
		{"beside, found internal", inside, Beside, 0, ErrNoJournal, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dev := disk.NewMem(int64(len(test.content)))
			if _, err := dev.WriteAt(test.content, 0); err != nil {
				t.Fatal(err)
			}
			expectProbe(t, dev, test.placement, test.want, test.wantErr, test.text)
		})
	}
	if _, err := Probe(disk.NewMem(1<<20), 0); err == nil || !strings.Contains(err.Error(), "placement 0") {
		t.Errorf("Probe with placement 0: %v", err)
	}
}

// TestMisplaced puts a superblock where the slots of the other placement are: a copy of a
// journal onto a backing's end, say. The fields must agree with where they were found.
func TestMisplaced(t *testing.T) {
	dev := disk.NewMem(sampleDevice)
	sb := sample()
	sb.Generation = 1
	if _, err := dev.WriteAt(encode(sb), sampleDevice-slotBytes); err != nil {
		t.Fatal(err)
	}
	expectProbe(t, dev, Internal, 0, ErrCorrupt, "placement is beside, but the slots were found as for internal")
}

// TestReadSlots holds what `jnbd check` is told of each slot.
func TestReadSlots(t *testing.T) {
	dev := saved(t, internalSample(), 3)
	if _, err := dev.WriteAt([]byte{0xff}, sampleDevice-1); err != nil {
		t.Fatal(err)
	}
	slots, err := ReadSlots(dev, Internal)
	if err != nil {
		t.Fatal(err)
	}
	if s := slots[0]; s.Offset != sampleDevice-8192 || !s.Sealed || s.Generation != 3 || s.Super == nil || s.Err != nil {
		t.Errorf("slot 0: %+v, want generation 3 at %d", s, sampleDevice-8192)
	}
	if s := slots[1]; s.Offset != sampleDevice-4096 || s.Sealed || s.Super != nil || !errors.Is(s.Err, ErrCorrupt) {
		t.Errorf("slot 1: %+v, want it corrupt at %d", s, sampleDevice-4096)
	}
}

// TestReadError is not damage: the device's own error comes through.
func TestReadError(t *testing.T) {
	broken := errors.New("medium error")
	dev := failingReads{saved(t, sample(), 2), broken}
	for name, err := range map[string]error{
		"Probe": func() error { _, err := Probe(dev, Beside); return err }(),
		"Load":  func() error { _, err := NewStore(dev, Beside).Load(); return err }(),
		"Save":  NewStore(dev, Beside).Save(sample()),
	} {
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "slot 0 at 0") {
			t.Errorf("%s: %v, want %v with its place", name, err, broken)
		}
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNoJournal) {
			t.Errorf("%s: %v looks like damage", name, err)
		}
	}
}

// failingReads is a device that can't be read.
type failingReads struct {
	disk.Device
	err error
}

func (f failingReads) ReadAt([]byte, int64) (int, error) { return 0, f.err }
