package ordered

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"jnbd/disk"
)

// update rewrites the golden files; only a new version of the format may need it.
var update = flag.Bool("update", false, "rewrite the golden files")

// goldenLayout has one page of each kind.
var goldenLayout = Layout{Blocks: 1000, Slots: 64}

// goldenState is saved twice, so that both places are in use.
func goldenState(t testing.TB, dev disk.Device) *State {
	s := New(goldenLayout)
	s.SetPresent(0, 128)
	finish(t, s)
	write(t, s, 200, 3, 1)
	save(t, s, dev, 1)
	write(t, s, 1, 4, 2)
	write(t, s, 201, 1, 3)
	s.Drop(64, 8, 4)
	save(t, s, dev, 6)
	return s
}

func wholeDevice(t testing.TB, l Layout) ([]byte, disk.Device) {
	t.Helper()
	dev := disk.NewMem(StateBytes(l))
	goldenState(t, dev)
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b, dev
}

// describe prints the device as its fields, then as bytes without the lines of zeros.
func describe(b []byte) string {
	var out strings.Builder
	for at := 0; at < len(b); at += pageBytes {
		fmt.Fprintf(&out, "# %#06x: page %d, place %d: ", at, at/pageBytes/2, at/pageBytes%2)
		p, err := decodePage(b[at : at+pageBytes])
		if err != nil {
			fmt.Fprintf(&out, "%v\n", err)
			continue
		}
		fmt.Fprintf(&out, "%v, generation %d, number %d, %d blocks, %d slots\n", p.kind, p.generation, p.number, p.layout.Blocks, p.layout.Slots)
		for i, w := range p.words {
			switch {
			case w == 0:
			case p.kind == kindBits:
				fmt.Fprintf(&out, "#   blocks from %d: %064b\n", i*64, w)
			case p.kind == kindSlots:
				fmt.Fprintf(&out, "#   slot %d: block %d\n", i, w-1)
			default:
				fmt.Fprintf(&out, "#   child %d: generation %d, place %d\n", i, entryGeneration(w), entryPlace(w))
			}
		}
	}
	for at := 0; at < len(b); at += 16 {
		if line := b[at : at+16]; !bytes.Equal(line, make([]byte, 16)) {
			fmt.Fprintf(&out, "%06x  % x\n", at, line)
		}
	}
	return out.String()
}

// undescribe reads the bytes of a golden file.
func undescribe(t *testing.T, text string, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var at int
		if _, err := fmt.Sscanf(line, "%x", &at); err != nil {
			t.Fatal(err)
		}
		row, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line[6:]), " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		copy(b[at:], row)
	}
	return b
}

// TestGolden: the bytes of version 1, for ever.
func TestGolden(t *testing.T) {
	name := filepath.Join("testdata", "v1.txt")
	b, _ := wholeDevice(t, goldenLayout)
	got := describe(b)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the state is written as\n%s\nwant\n%s", got, want)
	}
	dev := disk.NewMem(StateBytes(goldenLayout))
	if _, err := dev.WriteAt(undescribe(t, string(want), dev.Size()), 0); err != nil {
		t.Fatal(err)
	}
	s := load(t, dev, goldenLayout, 6)
	if got, want := bases(s), bases(goldenState(t, disk.NewMem(StateBytes(goldenLayout)))); !slices.Equal(got, want) {
		t.Errorf("the golden bytes load as %v, want %v", got, want)
	}
}

// reseal makes the checksum of the page at off right.
func reseal(b []byte, off int64) {
	le.PutUint32(b[off+offCRC:], checksum(b[off:off+pageBytes]))
}

// TestDamage: what each damage of the committed state, and of what is not committed, is
// answered with. The golden state has bits in page 0, slots in page 1, the root in page 2.
func TestDamage(t *testing.T) {
	const (
		bits, slots, root = 0, 1, 2
		newer, older      = true, false
	)
	committed := [...]uint64{bits: 1, slots: 0, root: 1} // the places after two saves
	at := func(page int64, version bool) int64 {
		place := committed[page]
		if version == older {
			place = 1 - place
		}
		return offset(page, place)
	}
	word := func(i int64) int64 { return offWords + 8*i }
	tests := []struct {
		name   string
		page   int64
		newer  bool
		off    int64
		value  byte
		reseal bool
		want   error
	}{
		{"bits: one bit", bits, newer, word(3), 0x10, false, ErrCorrupt},
		{"slots: one bit", slots, newer, word(3), 0x10, false, ErrCorrupt},
		{"root: one bit", root, newer, word(3), 0x10, false, ErrCorrupt},
		{"bits: magic", bits, newer, 2, 'x', false, ErrCorrupt},
		{"root: magic", root, newer, 2, 'x', true, ErrCorrupt},
		{"bits: checksum", bits, newer, offCRC, 0x77, false, ErrCorrupt},
		{"bits: unused words", bits, newer, word(500), 1, true, ErrCorrupt},
		{"bits: last unused bits", bits, newer, word(15) + 7, 0xff, true, ErrCorrupt},
		{"bits: next version", bits, newer, offVersion, 2, true, ErrTooNew},
		{"slots: next version", slots, newer, offVersion, 2, true, ErrTooNew},
		{"root: next version", root, newer, offVersion, 2, true, ErrTooNew},
		{"root: version 0", root, newer, offVersion, 0, true, ErrCorrupt},
		{"bits: other generation", bits, newer, offGeneration, 5, true, ErrCorrupt},
		{"root: other generation", root, newer, offGeneration, 9, true, ErrCorrupt},
		{"root: generation 0", root, newer, offGeneration, 0, true, ErrCorrupt},
		{"bits: kind", bits, newer, offKind, 2, true, ErrCorrupt},
		{"slots: kind unknown", slots, newer, offKind, 9, true, ErrCorrupt},
		{"slots: reserved", slots, newer, offReserved1, 1, true, ErrCorrupt},
		{"root: reserved", root, newer, offReserved2 + 7, 1, true, ErrCorrupt},
		{"slots: number", slots, newer, offNumber, 0, true, ErrCorrupt},
		{"slots: number beyond", slots, newer, offNumber + 7, 0xff, true, ErrCorrupt},
		{"bits: blocks", bits, newer, offBlocks, 1, true, ErrCorrupt},
		{"bits: blocks negative", bits, newer, offBlocks + 7, 0xff, true, ErrCorrupt},
		{"root: slots", root, newer, offSlots, 65, true, ErrCorrupt},
		{"slots: block beyond the disk", slots, newer, word(0) + 1, 0x7f, true, ErrCorrupt},
		{"slots: block in two slots", slots, newer, word(1), 2, true, ErrCorrupt},
		{"slots: block that is at home", slots, newer, word(9), 6, true, ErrCorrupt},
		{"slots: slot beyond the spare area", slots, newer, word(64), 1, true, ErrCorrupt},
		{"root: entry of generation 0", root, newer, word(0), 1, true, ErrCorrupt},
		{"root: entry of a later generation", root, newer, word(0), 14, true, ErrCorrupt},
		{"root: entry to the wrong place", root, newer, word(0), 12, true, ErrCorrupt},
		{"root: entry to an older version", root, newer, word(0), 2, true, ErrCorrupt}, // whole, but displaced blocks were at home then
		{"root: child beyond", root, newer, word(2), 2, true, ErrCorrupt},

		{"older bits: torn", bits, older, word(3), 0x10, false, nil},
		{"older bits: too new", bits, older, offVersion, 2, true, nil},
		{"older root: torn", root, older, word(3), 0x10, false, nil},
		{"older root: same generation", root, older, offGeneration, 6, true, ErrCorrupt},
		{"place of slots that was never written", slots, older, word(3), 0x10, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, dev := wholeDevice(t, goldenLayout)
			off := at(test.page, test.newer)
			if b[off+test.off] == test.value {
				t.Fatalf("byte %d is %#02x already: no damage", test.off, test.value)
			}
			b[off+test.off] = test.value
			if test.reseal {
				reseal(b, off)
			}
			if _, err := dev.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dev, goldenLayout, 6)
			if test.want == nil && err != nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("load: %v, want %v", err, test.want)
			}
			after := make([]byte, len(b))
			if _, err := dev.ReadAt(after, 0); err != nil || !bytes.Equal(after, b) {
				t.Errorf("load changed the device, or %v", err)
			}
		})
	}
}

// TestLoadRefuses: what does not fit together.
func TestLoadRefuses(t *testing.T) {
	_, dev := wholeDevice(t, goldenLayout)
	tests := []struct {
		name       string
		dev        disk.Device
		layout     Layout
		generation uint64
	}{
		{"generation that was never saved", dev, goldenLayout, 5},
		{"other layout", dev, Layout{Blocks: 1001, Slots: 64}, 6},
		{"no pages at all", disk.NewMem(dev.Size()), goldenLayout, 6},
		{"short device", disk.Region(dev, 0, dev.Size()-1), goldenLayout, 6},
		{"bad layout", dev, Layout{Blocks: -5}, 6},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Load(test.dev, test.layout, test.generation); !errors.Is(err, ErrCorrupt) {
				t.Errorf("load: %v, want %v", err, ErrCorrupt)
			}
		})
	}
	if s, err := Load(dev, goldenLayout, 0); err != nil || s.Stats().Present != 0 {
		t.Errorf("generation 0: %v, want the state of New", err)
	}
}

// TestLostWrite: a committed page that never reached the medium, so that its place holds
// what was there before, is noticed, though it is whole.
func TestLostWrite(t *testing.T) {
	l := goldenLayout
	dev := disk.NewMem(StateBytes(l))
	s := live(t, l)
	var saved [][]byte
	for generation := uint64(1); generation <= 6; generation++ {
		write(t, s, 0, 10, int64(generation))
		release(s, int64(generation)+1)
		save(t, s, dev, generation)
		b := make([]byte, dev.Size())
		if _, err := dev.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		saved = append(saved, b)
	}
	for number := range newTree(l).pages {
		for place := range uint64(2) {
			off := offset(number, place)
			lost := slices.Clone(saved[5])
			copy(lost[off:off+pageBytes], saved[3][off:])
			if bytes.Equal(lost, saved[5]) {
				continue
			}
			if _, err := dev.WriteAt(lost, 0); err != nil {
				t.Fatal(err)
			}
			got, err := Load(dev, l, 6)
			if err == nil {
				finish(t, got)
				if !slices.Equal(bases(got), bases(s)) {
					t.Errorf("page %d, place %d lost: loaded %v, want %v or an error", number, place, bases(got), bases(s))
				}
			}
		}
	}
}

// FuzzPage: whatever the bytes, decodePage answers with one of our errors, or with a page
// that encodes to the same bytes.
func FuzzPage(f *testing.F) {
	b, _ := wholeDevice(f, goldenLayout)
	for at := 0; at < len(b); at += pageBytes {
		f.Add(b[at : at+pageBytes])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != pageBytes {
			return
		}
		for _, sealed := range []bool{false, true} {
			if sealed { // get past the checksum, as chance never would
				b = slices.Clone(b)
				copy(b, magic[:])
				reseal(b, 0)
			}
			p, err := decodePage(b)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
					t.Fatalf("error of no kind: %v", err)
				}
				continue
			}
			again := make([]byte, pageBytes)
			p.encode(again)
			if !bytes.Equal(again, b) {
				t.Fatal("accepted, and encoded to other bytes")
			}
		}
	})
}

// FuzzLoad: whatever the words of the committed pages, Load answers with an error, or with a
// state that holds its invariants.
func FuzzLoad(f *testing.F) {
	f.Add(uint8(0), uint16(0), uint64(3))
	f.Add(uint8(1), uint16(7), uint64(1))
	f.Add(uint8(2), uint16(1), uint64(2))
	f.Fuzz(func(t *testing.T, number uint8, word uint16, value uint64) {
		b, dev := wholeDevice(t, goldenLayout)
		off := offset(int64(number%3), []uint64{1, 0, 1}[number%3])
		le.PutUint64(b[off+offWords+8*int64(word%wordsPerPage):], value)
		reseal(b, off)
		if _, err := dev.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		s, err := Load(dev, goldenLayout, 6)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		finish(t, s)
		check(t, s)
	})
}
