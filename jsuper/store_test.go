package jsuper

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/disk"
)

// TestSaveAlternates holds the exact writes of a journal's life: one slot, one flush, the
// other slot next; also after a new start, which makes sure of what it found first.
func TestSaveAlternates(t *testing.T) {
	for _, test := range []struct {
		placement Placement
		sb        *Superblock
		slots     [2]string
	}{
		{Beside, sample(), [2]string{"write 0+4096", "write 4096+4096"}},
		{Internal, internalSample(), [2]string{"write 1105920+4096", "write 1110016+4096"}},
	} {
		t.Run(test.placement.String(), func(t *testing.T) {
			dev := &recorder{Device: disk.NewMem(sampleDevice)}
			s := NewStore(dev, test.placement)
			var want []string
			for n := range uint64(6) {
				if n == 3 {
					s = NewStore(dev, test.placement)
					got, err := s.Load()
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(test.sb, got); diff != "" {
						t.Errorf("loaded (-saved +loaded):\n%s", diff)
					}
					want = append(want, test.slots[0], "flush")
				}
				test.sb.Tail += 512
				test.sb.DurableUpTo += 512
				if err := s.Save(test.sb); err != nil {
					t.Fatal(err)
				}
				if test.sb.Generation != n+1 {
					t.Errorf("generation %d, want %d", test.sb.Generation, n+1)
				}
				want = append(want, test.slots[n%2], "flush")
			}
			if !slices.Equal(dev.ops, want) {
				t.Errorf("operations %q, want %q", dev.ops, want)
			}
		})
	}
}

// TestSaveGoesToTheDamagedSlot: the one good slot must not be risked.
func TestSaveGoesToTheDamagedSlot(t *testing.T) {
	for damaged := range 2 {
		mem := saved(t, sample(), 3)
		if _, err := mem.WriteAt([]byte{0xff}, int64(damaged)*slotBytes+100); err != nil {
			t.Fatal(err)
		}
		before := content(t, mem)
		s := NewStore(mem, Beside)
		sb, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Save(sb); err != nil {
			t.Fatal(err)
		}
		good := (1 - damaged) * slotBytes
		if !bytes.Equal(content(t, mem)[good:good+slotBytes], before[good:good+slotBytes]) {
			t.Errorf("slot %d damaged: the save went to the good slot", damaged)
		}
		// Generation 3 was in slot 0; where that was damaged, 2 is the newest.
		if want := uint64(4 - (1 - damaged)); sb.Generation != want {
			t.Errorf("slot %d damaged: saved as generation %d, want %d", damaged, sb.Generation, want)
		}
	}
}

// TestSaveBoth: whichever slot is lost afterwards, the other one tells the same.
func TestSaveBoth(t *testing.T) {
	for lost := range int64(2) {
		mem := saved(t, sample(), 2)
		sb := sample()
		sb.Tail, sb.DurableUpTo = 6<<20, 6<<20
		if err := NewStore(mem, Beside).SaveBoth(sb); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.WriteAt(make([]byte, slotBytes), lost*slotBytes); err != nil {
			t.Fatal(err)
		}
		got, err := Probe(mem, Beside)
		if err != nil || got.Tail != 6<<20 {
			t.Errorf("slot %d lost: %+v, %v, want tail %d", lost, got, err, 6<<20)
		}
	}
}

// TestSaveFails fails each operation of two saves. The error is reported with its place,
// the generation stays, nothing is written afterwards, and the last good save is found.
func TestSaveFails(t *testing.T) {
	broken := errors.New("i/o error")
	texts := []string{
		1: "save superblock generation 3: write slot 0 at 0: i/o error",
		2: "save superblock generation 3: flush slot 0 at 0: i/o error",
		3: "save superblock generation 4: write slot 1 at 4096: i/o error",
		4: "save superblock generation 4: flush slot 1 at 4096: i/o error",
		5: "save superblock generation 5: write slot 0 at 0: i/o error",
		6: "save superblock generation 5: flush slot 0 at 0: i/o error",
	}
	for k := 1; k < len(texts); k++ {
		mem := saved(t, sample(), 3)
		dev := &recorder{Device: mem, failAt: k, err: broken}
		s := NewStore(dev, Beside)
		sb, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < 3 && err == nil; n++ {
			err = s.Save(sb)
		}
		if err == nil {
			t.Fatalf("operation %d fails, and no save says so", k)
		}
		if !errors.Is(err, broken) || err.Error() != texts[k] {
			t.Errorf("operation %d fails: %v, want %q", k, err, texts[k])
		}
		if want := max(3, 2+uint64(k-1)/2); sb.Generation != want {
			t.Errorf("operation %d fails: generation %d, want %d", k, sb.Generation, want)
		}
		for name, again := range map[string]error{
			"Save": s.Save(sb), "SaveBoth": s.SaveBoth(sb), "Create": s.Create(sb), "Wipe": s.Wipe(),
		} {
			if again != err {
				t.Errorf("operation %d fails: then %s: %v, want the first error", k, name, again)
			}
		}
		if len(dev.ops) != k {
			t.Errorf("operation %d fails: then %q", k, dev.ops[k:])
		}
		if got, err := Probe(mem, Beside); err != nil || got.Generation < sb.Generation {
			t.Errorf("operation %d fails: found %+v, %v, want generation %d or more", k, got, err, sb.Generation)
		}
	}
}

// TestSaveRefuses holds what is never written, and that the device stays as it is.
func TestSaveRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(sb *Superblock)
		want   string
	}{
		{"invalid field", func(sb *Superblock) { sb.Mode = 0 }, "mode 0"},
		{"another disk", func(sb *Superblock) { sb.DiskUUID[0]++ }, "the device holds the journal of d15c0203-"},
		{"another placement", func(sb *Superblock) { sb.Placement, sb.DiskBytes = Internal, 1 }, "placement is internal"},
		{"log beyond the device", func(sb *Superblock) { sb.LogOffset += 4096 }, "there is room up to"},
		{"unknown incompatible feature", func(sb *Superblock) { sb.Incompat = 2 }, "incompat 0x2"},
		{"unknown read-only feature", func(sb *Superblock) { sb.ROCompat = 1 }, "ro-compat 0x1"},
		{"tail ahead of what is durable", func(sb *Superblock) { sb.Tail += 4096 }, "durable up to"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dev := saved(t, sample(), 2)
			before := content(t, dev)
			s := NewStore(dev, Beside)
			sb, err := s.Load()
			if err != nil {
				t.Fatal(err)
			}
			test.change(sb)
			if err := s.Save(sb); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Save: %v, want an error with %q", err, test.want)
			}
			if !bytes.Equal(content(t, dev), before) {
				t.Error("the device was changed")
			}
		})
	}
	t.Run("last generation", func(t *testing.T) {
		dev := disk.NewMem(sampleDevice)
		sb := sample()
		sb.Generation = math.MaxUint64
		if _, err := dev.WriteAt(encode(sb), 0); err != nil {
			t.Fatal(err)
		}
		if err := NewStore(dev, Beside).Save(sb); err == nil || !strings.Contains(err.Error(), "is the last one") {
			t.Errorf("Save: %v", err)
		}
	})
}

// TestInternalLogEndsAtTheSlots: at the end of the backing the log may reach the slots
// and no further.
func TestInternalLogEndsAtTheSlots(t *testing.T) {
	sb := internalSample()
	sb.SegmentBytes = 4096
	sb.LogBytes = sampleDevice - ReservedBytes - sb.LogOffset
	sb.DurableUpTo = sb.Tail
	if err := NewStore(disk.NewMem(sampleDevice), Internal).Save(sb); err != nil {
		t.Error(err)
	}
	sb.LogBytes += sb.SegmentBytes
	if err := NewStore(disk.NewMem(sampleDevice), Internal).Save(sb); err == nil {
		t.Error("a log that reaches into the slots was saved")
	}
}

// TestCreate replaces whatever was there; Wipe leaves nothing.
func TestCreate(t *testing.T) {
	damaged := saved(t, sample(), 2)
	if _, err := damaged.WriteAt(make([]byte, 4096), 2048); err != nil {
		t.Fatal(err)
	}
	for name, mem := range map[string]*disk.Mem{
		"empty": disk.NewMem(sampleDevice), "old journal": saved(t, sample(), 5), "damaged journal": damaged,
	} {
		dev := &recorder{Device: mem}
		sb := sample()
		sb.DiskUUID[0]++
		if err := NewStore(dev, Beside).Create(sb); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := []string{"write 0+8192", "flush", "write 0+4096", "flush"}; !slices.Equal(dev.ops, want) {
			t.Errorf("%s: operations %q, want %q", name, dev.ops, want)
		}
		got, err := Probe(mem, Beside)
		if err != nil || got.Generation != 1 || got.DiskUUID != sb.DiskUUID {
			t.Errorf("%s: found %+v, %v, want the new disk's generation 1", name, got, err)
		}
		if err := NewStore(mem, Beside).Wipe(); err != nil {
			t.Error(err)
		}
		expectProbe(t, mem, Beside, 0, ErrNoJournal, "all zero")
	}
}

// TestConcurrentSaves: saves take turns, and no generation is given twice.
func TestConcurrentSaves(t *testing.T) {
	dev := disk.NewMem(sampleDevice)
	s := NewStore(dev, Beside)
	const savers, saves = 4, 25
	var wg sync.WaitGroup
	seen := make([][]uint64, savers)
	for i := range savers {
		wg.Go(func() {
			sb := sample()
			for range saves {
				if err := s.Save(sb); err != nil {
					t.Error(err)
					return
				}
				seen[i] = append(seen[i], sb.Generation)
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(seen...)))
	for i, generation := range all {
		if generation != uint64(i+1) {
			t.Fatalf("generations %v, want 1 to %d", all, savers*saves)
		}
	}
	expectProbe(t, dev, Beside, savers*saves, nil, "")
}
