package jsuper

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"jnbd/disk"
)

// TestSampledBlocks holds which blocks are looked at.
func TestSampledBlocks(t *testing.T) {
	tests := []struct {
		size        int64
		count       int
		first, last uint64
	}{
		{1, 0, 0, 0},
		{4095, 0, 0, 0},
		{4096, 1, 0, 0},
		{3*4096 + 1, 3, 0, 2},
		{32 * 4096, 32, 0, 31},
		{33 * 4096, 32, 0, 32},
		{34*4096 + 4095, 32, 0, 33},
		{1 << 30, 32, 0, 1<<18 - 1},
		{1 << 62, 32, 0, 1<<50 - 1},
	}
	for _, test := range tests {
		got := sampledBlocks(test.size)
		if len(got) != test.count {
			t.Errorf("size %d: %d blocks, want %d", test.size, len(got), test.count)
			continue
		}
		if len(got) == 0 {
			continue
		}
		if got[0] != test.first || got[len(got)-1] != test.last {
			t.Errorf("size %d: blocks %d to %d, want %d to %d", test.size, got[0], got[len(got)-1], test.first, test.last)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("size %d: %v is not ascending", test.size, got)
		}
		if test.count == FingerprintBlocks && got[headBlocks-1] != headBlocks-1 {
			t.Errorf("size %d: %v does not begin with the first %d", test.size, got, headBlocks)
		}
	}
	// Where there are more blocks than samples, none is sampled twice, whatever the length.
	for blocks := int64(33); blocks < 2000; blocks++ {
		if got := sampledBlocks(blocks * 4096); len(slices.Compact(got)) != FingerprintBlocks {
			t.Fatalf("%d blocks: %v has doubles", blocks, got)
		}
	}
}

// TestCompare changes a backing in one place after its fingerprint was taken.
func TestCompare(t *testing.T) {
	const size = 1 << 20
	sampled := sampledBlocks(size)
	middle := int64(sampled[20]) * 4096
	between := middle + 4096
	if slices.Contains(sampled, uint64(between/4096)) {
		t.Fatalf("block %d is sampled; choose another", between/4096)
	}
	tests := []struct {
		name    string
		change  int64 // offset of the byte that changes, or -1
		size    int64 // of the device that is compared
		skip    func(off, n int64) bool
		wantErr error
		text    string
	}{
		{"nothing", -1, size, nil, nil, ""},
		{"first byte", 0, size, nil, ErrChanged, "block at offset 0: checksum"},
		{"last byte of the head", 16*4096 - 1, size, nil, ErrChanged, "block at offset 61440:"},
		{"a spread sample", middle + 7, size, nil, ErrChanged, "block at offset"},
		{"last block", size - 1, size, nil, ErrChanged, "block at offset 1044480:"},
		{"between samples", between, size, nil, nil, ""},
		{"in a block that the log holds", 4097, size, func(off, n int64) bool { return off == 4096 && n == 4096 }, nil, ""},
		{"in another block than the log holds", 4097, size, func(off, n int64) bool { return off == 8192 }, ErrChanged, "block at offset 4096:"},
		{"shrunk", -1, size - 1, nil, ErrShrunk, "size 1048575, want 1048576"},
		{"shrunk, all in the log", -1, size - 1, func(off, n int64) bool { return true }, ErrShrunk, ""},
		{"grown", -1, size + 1, nil, ErrChanged, "it has grown: size 1048577, want 1048576"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pattern := make([]byte, size+1)
			for i := range pattern {
				pattern[i] = byte(i * 7 / 4096)
			}
			before := disk.NewMem(size)
			if _, err := before.WriteAt(pattern[:size], 0); err != nil {
				t.Fatal(err)
			}
			f, err := TakeFingerprint(before)
			if err != nil {
				t.Fatal(err)
			}
			if test.change >= 0 {
				pattern[test.change]++
			}
			dev := disk.NewMem(test.size)
			if _, err := dev.WriteAt(pattern[:test.size], 0); err != nil {
				t.Fatal(err)
			}
			err = f.Compare(dev, test.skip)
			if !errors.Is(err, test.wantErr) || (err == nil) != (test.wantErr == nil) {
				t.Fatalf("Compare: %v, want %v", err, test.wantErr)
			}
			if err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("Compare: %v, want a text with %q", err, test.text)
			}
			if err := f.Update(dev); err != nil {
				t.Fatal(err)
			}
			if err := f.Compare(dev, nil); err != nil {
				t.Errorf("Compare after Update: %v", err)
			}
		})
	}
}

// TestFingerprintLife: not taken, taken, stored, and an unreadable backing.
func TestFingerprintLife(t *testing.T) {
	dev := disk.NewMem(50*4096 + 1)
	var f Fingerprint
	if err := f.Compare(dev, nil); !f.IsZero() || err != nil {
		t.Errorf("a fingerprint that was not taken: zero %v, Compare %v", f.IsZero(), err)
	}
	f.ModTimeNs = 17
	if err := f.Update(dev); err != nil {
		t.Fatal(err)
	}
	if f.ModTimeNs != 0 {
		t.Error("Update left an old modification time")
	}
	sb := sample()
	sb.Fingerprint = f
	got, err := Probe(saved(t, sb, 1), Beside)
	if err != nil || got.Fingerprint != f {
		t.Errorf("stored fingerprint: %+v, %v, want %+v", got, err, f)
	}
	broken := errors.New("medium error")
	unreadable := failingReads{dev, broken}
	if err := f.Compare(unreadable, nil); !errors.Is(err, broken) || errors.Is(err, ErrChanged) {
		t.Errorf("Compare with an unreadable backing: %v", err)
	}
	kept := f
	if err := f.Update(unreadable); !errors.Is(err, broken) || f != kept {
		t.Errorf("Update with an unreadable backing: %v, changed %v", err, f != kept)
	}
}
