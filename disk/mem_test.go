package disk

import (
	"fmt"
	"slices"
	"testing"
)

func TestMemExtents(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		name string
		do   func(m *Mem) error
		want []string
	}{
		{"nothing", func(*Mem) error { return nil }, []string{"hole 0+1048"}},
		{"write", func(m *Mem) error { return put(m, 64*kib, 1) }, []string{"hole 0+64", "data 64+64", "hole 128+920"}},
		{"two neighbours", func(m *Mem) error { return put(m, 64*kib-1, 2) }, []string{"data 0+128", "hole 128+920"}},
		{"last short page", func(m *Mem) error { return put(m, 1048*kib-1, 1) }, []string{"hole 0+1024", "data 1024+24"}},
		{"zero allocates", func(m *Mem) error { return m.Zero(65*kib, 10, false) }, []string{"hole 0+64", "data 64+64", "hole 128+920"}},
		{"zero to the end", func(m *Mem) error { return m.Zero(1*kib, 1047*kib, false) }, []string{"data 0+1048"}},
		{"punch whole pages", func(m *Mem) error {
			return first(put(m, 0, 1048*kib), m.Zero(63*kib, 200*kib, true))
		}, []string{"data 0+64", "hole 64+192", "data 256+792"}},
		{"punch to the end", func(m *Mem) error {
			return first(put(m, 0, 1048*kib), m.Zero(64*kib, 984*kib, true))
		}, []string{"data 0+64", "hole 64+984"}},
		{"punch part of a page", func(m *Mem) error {
			return first(put(m, 0, 64*kib), m.Zero(1, 64*kib-2, true))
		}, []string{"data 0+64", "hole 64+984"}},
	} {
		m := NewMem(1048 * kib)
		if err := c.do(m); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got []string
		if err := m.Extents(0, m.Size(), func(off, n int64, hole bool) bool {
			got = append(got, fmt.Sprintf("%s %d+%d", map[bool]string{true: "hole", false: "data"}[hole], off/kib, n/kib))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: extents %q, want %q", c.name, got, c.want)
		}
	}
}

// A disk of 1 TiB costs what is written to it.
func TestMemIsSparse(t *testing.T) {
	const tib = 1 << 40
	m := NewMem(tib)
	if err := first(put(m, tib-1, 1), put(m, tib/2, 1), m.Zero(0, tib-1<<20, true)); err != nil {
		t.Fatal(err)
	}
	if len(m.pages) != 1 {
		t.Errorf("%d pages are allocated, want 1", len(m.pages))
	}
	visits := 0
	if err := m.Extents(0, tib, func(_, _ int64, hole bool) bool { visits++; return hole }); err != nil {
		t.Fatal(err)
	}
	if visits != 2 {
		t.Errorf("%d visits, want 2: the hole, and the data that ends it", visits)
	}
}

// put writes n bytes that are not zero.
func put(dev Device, off, n int64) error {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) | 1
	}
	_, err := dev.WriteAt(p, off)
	return err
}

// first is the first error there is.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
