package jsuper

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew, which only a new format version may need")

// TestGolden holds the bytes of every released version. Each file has the decoded fields
// above the bytes, so that a change of either shows in review.
func TestGolden(t *testing.T) {
	fresh := &Superblock{
		DiskUUID: [16]byte{1}, Mode: Auto, State: Closed, Placement: Internal,
		DiskBytes: 1, LogOffset: 4096, LogBytes: 4096, SegmentBytes: 4096,
	}
	fresh.Generation = 1
	full := sample()
	full.Generation = 0x0102030405060708
	incarnation := sample()
	incarnation.Generation = 3
	incarnation.Incompat, incarnation.Incarnation, incarnation.BootID = FeatureIncarnation, 0x1c0a2b3c4d5e6f70, [16]byte{0xb0, 0x07}
	for name, sb := range map[string]*Superblock{"v1-fresh.txt": fresh, "v1-full.txt": full, "v1-incarnation.txt": incarnation} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name)
			want := describe(sb) + "\n" + dump(encode(sb))
			if *update {
				if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(golden), want); diff != "" {
				t.Errorf("encoding differs from the golden file (-golden +now):\n%s", diff)
			}
			_, hexed, _ := strings.Cut(string(golden), "\n\n")
			slot := undump(t, hexed)
			h, err := decodeHeader(slot)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(slot, h)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sb, got); diff != "" {
				t.Errorf("decoding the golden file (-want +got):\n%s", diff)
			}
		})
	}
}

// describe writes the fields one a line, in the order of the struct.
func describe(sb *Superblock) string {
	var out strings.Builder
	v := reflect.ValueOf(*sb)
	for i := range v.NumField() {
		value := v.Field(i).Interface()
		switch x := value.(type) {
		case [16]byte:
			value = hex.EncodeToString(x[:])
		case uint64:
			value = fmt.Sprintf("%#x", x)
		case time.Time:
			value = x.Format(time.RFC3339Nano)
		case Fingerprint:
			value = fmt.Sprintf("size %d, modified %d, count %d, blocks %v", x.Size, x.ModTimeNs, x.Count, x.Blocks[:x.Count])
		}
		fmt.Fprintf(&out, "%-12s %v\n", v.Type().Field(i).Name, value)
	}
	return out.String()
}

// dump writes a slot as lines of offset and 16 bytes, without the lines that are zero.
func dump(slot []byte) string {
	var out strings.Builder
	for off := 0; off < len(slot); off += 16 {
		if line := slot[off : off+16]; firstNonZero(line) >= 0 {
			fmt.Fprintf(&out, "%04x  % x\n", off, line)
		}
	}
	return out.String()
}

// undump is dump's inverse.
func undump(t *testing.T, text string) []byte {
	t.Helper()
	slot := make([]byte, slotBytes)
	for line := range strings.Lines(text) {
		var off int
		at, bytesOf, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if _, err := fmt.Sscanf(at, "%x", &off); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		b, err := hex.DecodeString(strings.ReplaceAll(bytesOf, " ", ""))
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		copy(slot[off:], b)
	}
	return slot
}

// TestEveryFieldIsStored fails when a field is added to the struct and not to the format.
func TestEveryFieldIsStored(t *testing.T) {
	full := sample()
	full.Generation, full.Incompat, full.ROCompat = 9, 1, 1
	full.Incarnation, full.BootID = 2, [16]byte{3}
	before := encode(full)
	v := reflect.ValueOf(full).Elem()
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		if field.IsZero() {
			t.Errorf("%s is zero in the sample", name)
		}
		saved := reflect.ValueOf(field.Interface())
		field.SetZero()
		if bytes.Equal(encode(full), before) {
			t.Errorf("%s does not reach the encoding", name)
		}
		field.Set(saved)
	}
}

// TestDecodeRefuses changes one place of a good slot, seals it, and wants a complaint
// about just that.
func TestDecodeRefuses(t *testing.T) {
	put := func(off int, v int64) func([]byte) { return func(b []byte) { putInt64(b[off:], v) } }
	set := func(off int, v byte) func([]byte) { return func(b []byte) { b[off] = v } }
	tests := []struct {
		name    string
		corrupt func(slot []byte)
		want    string
	}{
		{"version 0", set(offVersion, 0), "format version 0, want 1"},
		{"generation 0", put(offGeneration, 0), "generation 0"},
		{"no uuid", func(b []byte) { clear(b[offDiskUUID : offDiskUUID+16]) }, "uuid is all zero"},
		{"mode 0", set(offMode, 0), "mode 0"},
		{"mode 4", set(offMode, 4), "mode 4"},
		{"state 0", set(offState, 0), "state 0"},
		{"state 4", set(offState, 4), "state 4"},
		{"placement 0", set(offPlacement, 0), "placement 0"},
		{"placement 3", set(offPlacement, 3), "placement 3"},
		{"reserved byte", set(offReserved1, 1), "reserved byte 71 is 0x01"},
		{"reserved word", set(offReserved2+3, 1), "reserved byte 239 is 0x01"},
		{"reserved start", set(offReserved3, 0x80), "reserved byte 688 is 0x80"},
		{"incarnation without its feature", put(offIncarnation, 1), "incarnation 0x1"},
		{"feature without its incarnation", put(offIncompat, int64(FeatureIncarnation)), "incarnation 0x0"},
		{"boot id without an incarnation", set(offBootID, 1), "boot id 01"},
		{"reserved end", set(slotBytes-1, 1), "reserved byte 4095 is 0x01"},
		{"created before 1970", put(offCreated, -1), "created time"},
		{"updated before 1970", put(offUpdated, -1), "updated time"},
		{"barrier before 1970", put(offBarrierTime, -1), "barrier time"},
		{"disk size 0", put(offDiskBytes, 0), "disk size 0"},
		{"disk size negative", put(offDiskBytes, -1), "disk size -1"},
		{"disk size huge", put(offDiskBytes, maxBytes+1), "disk size"},
		{"log offset unaligned", put(offLogOffset, 64<<10+512), "log offset 66048"},
		{"log offset negative", put(offLogOffset, -4096), "log offset -4096"},
		{"log offset huge", put(offLogOffset, maxBytes+4096), "log offset"},
		{"log on the slots", put(offLogOffset, 4096), "inside the superblock"},
		{"log size 0", put(offLogBytes, 0), "log size 0"},
		{"log size not in segments", put(offLogBytes, 1<<20+4096), "log size"},
		{"log size huge", put(offLogBytes, maxBytes+64<<10), "log size"},
		{"segment 0", put(offSegmentBytes, 0), "segment size 0"},
		{"segment no power of two", put(offSegmentBytes, 3<<12), "segment size"},
		{"segment too small", put(offSegmentBytes, 2048), "segment size"},
		{"segment negative", put(offSegmentBytes, -1<<63), "segment size"},
		{"spare offset", put(offSpareOffset, -1), "spare offset -1"},
		{"spare size", put(offSpareBytes, maxBytes+1), "spare size"},
		{"spare cap", put(offSpareCap, -1), "spare cap -1"},
		{"tail negative", put(offTail, -512), "tail -512"},
		{"tail off its line", put(offTail, 511), "tail 511"},
		{"tail huge", put(offTail, maxBytes+512), "tail"},
		{"durable before the tail", put(offDurableUpTo, 5<<20-1), "durable up to"},
		{"durable far behind the largest tail and log", func(b []byte) {
			putInt64(b[offTail:], maxBytes)
			putInt64(b[offLogBytes:], maxBytes)
			putInt64(b[offDurableUpTo:], 1<<63-1)
		}, "durable up to 9223372036854775807"},
		{"durable a log behind the tail", put(offDurableUpTo, 6<<20+1), "durable up to"},
		{"print size", put(offPrintSize, -1), "fingerprint size -1"},
		{"print time", put(offPrintModTime, -1), "fingerprint modification time"},
		{"print count", set(offPrintCount, FingerprintBlocks+1), "fingerprint has 33 blocks"},
		{"print count huge", func(b []byte) { le.PutUint32(b[offPrintCount:], 1<<31) }, "fingerprint has"},
		{"print rest", set(offPrintCount, FingerprintBlocks-1), "beyond the count 31"},
		{"print order", put(offPrintBlocks+blockSumBytes, 0), "not above 0"},
		{"print beyond the end", put(offPrintBlocks+31*blockSumBytes, 1<<18), "the backing has 262144"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sb := sample()
			sb.Generation = 1
			slot := encode(sb)
			test.corrupt(slot)
			seal(slot)
			h, err := decodeHeader(slot)
			if err != nil {
				t.Fatal(err)
			}
			_, err = decode(slot, h)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("decode: %v, want an error with %q", err, test.want)
			}
		})
	}
}

// TestEveryBitIsChecked flips each bit of a slot. None may be believed.
func TestEveryBitIsChecked(t *testing.T) {
	sb := sample()
	sb.Generation = 1
	slot := encode(sb)
	for bit := range slotBytes * 8 {
		slot[bit/8] ^= 1 << (bit % 8)
		if got := judge(slot, Beside, sampleDevice); got.Sealed || got.Super != nil {
			t.Fatalf("bit %d of byte %d: the slot is believed", bit%8, bit/8)
		}
		slot[bit/8] ^= 1 << (bit % 8)
	}
	if got := judge(slot, Beside, sampleDevice); got.Super == nil {
		t.Fatalf("the slot with no bit flipped: %v", got.Err)
	}
}

// FuzzSlot feeds slots to the decoder, as they are and sealed. What is accepted must
// encode to the same bytes.
func FuzzSlot(f *testing.F) {
	for _, sb := range []*Superblock{sample(), internalSample()} {
		sb.Generation = 3
		f.Add(encode(sb))
	}
	f.Add([]byte{})
	f.Add(magic[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		slot := make([]byte, slotBytes)
		copy(slot, b)
		for _, sealed := range []bool{false, true} {
			if sealed {
				copy(slot[offMagic:], magic[:])
				seal(slot)
			}
			for _, placement := range []Placement{Beside, Internal} {
				got := judge(slot, placement, sampleDevice)
				if (got.Super == nil) == (got.Err == nil) {
					t.Fatalf("superblock %v with error %v", got.Super, got.Err)
				}
				if got.Super != nil && !bytes.Equal(encode(got.Super), slot) {
					t.Fatalf("accepted bytes encode to others:\n%s", cmp.Diff(dump(slot), dump(encode(got.Super))))
				}
			}
		}
	})
}

// TestTexts holds the words that the command line and its users see.
func TestTexts(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{Data.String() + " " + Ordered.String() + " " + Auto.String() + " " + Mode(9).String(), "data ordered auto mode(9)"},
		{Clean.String() + " " + Dirty.String() + " " + Closed.String() + " " + State(0).String(), "clean dirty closed state(0)"},
		{Beside.String() + " " + Internal.String() + " " + Placement(0).String(), "beside internal placement(0)"},
		{FormatUUID(sample().DiskUUID), "d15c0203-0405-4607-8809-0a0b0c0d0e0f"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
	for _, m := range []Mode{Data, Ordered, Auto} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("ParseMode(%q) = %v, %v", m, got, err)
		}
	}
	for _, s := range []string{"", "mode(1)", "DATA", "none"} {
		if _, err := ParseMode(s); err == nil {
			t.Errorf("ParseMode(%q) is accepted", s)
		}
	}
	a, b := NewUUID(), NewUUID()
	if a == b || a[6]>>4 != 4 || a[8]>>6 != 2 {
		t.Errorf("random uuids %s and %s, want two of version 4", FormatUUID(a), FormatUUID(b))
	}
}
