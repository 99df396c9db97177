package disk

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCheckRange(t *testing.T) {
	const maxInt = 1<<63 - 1
	for _, c := range []struct {
		off, n, size int64
		ok           bool
	}{
		{0, 0, 0, true},
		{0, 10, 10, true},
		{10, 0, 10, true},
		{9, 1, 10, true},
		{0, 11, 10, false},
		{10, 1, 10, false},
		{11, 0, 10, false},
		{-1, 1, 10, false},
		{5, -1, 10, false},
		{maxInt, maxInt, maxInt, false},
		{1, maxInt, maxInt, false},
	} {
		err := CheckRange(c.off, c.n, c.size)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrOutOfRange) {
			t.Errorf("[%d,+%d) of %d: got %v, want ok %v", c.off, c.n, c.size, err, c.ok)
		}
	}
}

// Every call with a range beyond the device fails and changes nothing, with and without
// the capability.
func TestOutOfRange(t *testing.T) {
	const size = 8192
	calls := map[string]func(dev Device, off, n int64) error{
		"read":        func(d Device, off, n int64) error { _, err := d.ReadAt(make([]byte, n), off); return err },
		"write":       func(d Device, off, n int64) error { _, err := d.WriteAt(make([]byte, n), off); return err },
		"gather":      func(d Device, off, n int64) error { return WriteV(d, [][]byte{make([]byte, n)}, off) },
		"zero":        func(d Device, off, n int64) error { return Zero(d, off, n, false) },
		"punch":       func(d Device, off, n int64) error { return Zero(d, off, n, true) },
		"discard":     Discard,
		"allocate":    Allocate,
		"direct read": func(d Device, off, n int64) error { _, err := ReadDirect(d, make([]byte, n), off); return err },
		"extents": func(d Device, off, n int64) error {
			return Extents(d, off, n, func(int64, int64, bool) bool { panic("visited") })
		},
	}
	file := newFile(t, size)
	devices := map[string]Device{
		"mem": NewMem(size), "plain": plain{NewMem(size)}, "file": file,
		"region": Region(NewMem(4*size), size, size), "plain region": Region(plain{NewMem(4 * size)}, size, size),
		"region of file": Region(newFile(t, 4*size), size, size),
	}
	full := bytes.Repeat([]byte{7}, size)
	for devName, dev := range devices {
		if _, err := dev.WriteAt(full, 0); err != nil {
			t.Fatal(err)
		}
		for name, call := range calls {
			for _, r := range [][2]int64{{size - 1, 2}, {size, 1}, {size + 1, 0}, {-1, 2}} {
				if err := call(dev, r[0], r[1]); !errors.Is(err, ErrOutOfRange) {
					t.Errorf("%s of %s [%d,+%d): got %v", name, devName, r[0], r[1], err)
				}
			}
		}
		got := make([]byte, size)
		if _, err := dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, full) {
			t.Errorf("%s was changed by refused calls: %v", devName, err)
		}
	}
	for _, dev := range []CachedReader{NewMem(size), file, Region(NewMem(4*size), size, size).(CachedReader)} {
		if err := dev.ReadCachedAt(make([]byte, 2), size-1); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("cached read of %T beyond the end: got %v", dev, err)
		}
	}
}

// recorder says which calls reach a device that has every capability.
type recorder struct {
	*Mem
	calls []string
}

func (r *recorder) note(format string, args ...any) {
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	r.note("read %d+%d", off, len(p))
	return r.Mem.ReadAt(p, off)
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.note("write %d+%d", off, len(p))
	return r.Mem.WriteAt(p, off)
}

func (r *recorder) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	r.note("gather %d+%d in %d", off, total(bufs), len(bufs))
	return total(bufs), nil
}

func (r *recorder) Zero(off, n int64, punch bool) error {
	r.note("zero %d+%d %v", off, n, punch)
	return nil
}

func (r *recorder) ReadCachedAt(p []byte, off int64) error {
	r.note("cached %d+%d", off, len(p))
	return nil
}

func (r *recorder) ReadDirectAt(p []byte, off int64) (int, error) {
	r.note("direct %d+%d", off, len(p))
	return len(p), nil
}

func (r *recorder) WriteDirectVAt(bufs [][]byte, off int64) (int64, error) {
	r.note("write directly %d+%d in %d", off, total(bufs), len(bufs))
	return total(bufs), nil
}

func (r *recorder) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	r.note("extents %d+%d", off, n)
	visit(off, n, true)
	return nil
}

func (r *recorder) Discard(off, n int64) error  { r.note("discard %d+%d", off, n); return nil }
func (r *recorder) Allocate(off, n int64) error { r.note("allocate %d+%d", off, n); return nil }
func (r *recorder) WriteBack(off, n int64)      { r.note("write back %d+%d", off, n) }
func (r *recorder) Flush() error                { r.note("flush"); return nil }

// useAll calls everything once at 10, and returns where Extents said it was.
func useAll(t *testing.T, dev Device) (extent string) {
	t.Helper()
	p := make([]byte, 4)
	_, err := dev.ReadAt(p, 10)
	errs := []error{err}
	WriteBack(dev, 10, 5)
	_, err = dev.WriteAt(p, 10)
	errs = append(
		errs, err, WriteV(dev, [][]byte{p, p[:2]}, 10), WriteDirect(dev, [][]byte{p, p[:3]}, 10), Zero(dev, 10, 3, true), ReadCached(dev, p, 10),
		Extents(dev, 10, 4, func(off, n int64, hole bool) bool {
			extent = fmt.Sprintf("%d+%d %v", off, n, hole)
			return true
		}),
		Discard(dev, 10, 4), Allocate(dev, 10, 4), dev.Flush(),
	)
	_, err = ReadDirect(dev, p, 10)
	if err := errors.Join(append(errs, err)...); err != nil && !errors.Is(err, ErrNotCached) {
		t.Fatal(err)
	}
	return extent
}

// A region passes on every capability, at its own place, and the helpers use each.
func TestCapabilitiesArePassedOn(t *testing.T) {
	for name, c := range map[string]struct {
		dev  func(*recorder) Device
		base int64
	}{
		"itself":           {func(r *recorder) Device { return r }, 0},
		"region":           {func(r *recorder) Device { return Region(r, 100, 50) }, 100},
		"region of region": {func(r *recorder) Device { return Region(Region(r, 100, 500), 60, 50) }, 160},
	} {
		r := &recorder{Mem: NewMem(1000)}
		extent := useAll(t, c.dev(r))
		at := c.base + 10
		want := []string{
			fmt.Sprintf("read %d+4", at), fmt.Sprintf("write back %d+5", at), fmt.Sprintf("write %d+4", at), fmt.Sprintf("gather %d+6 in 2", at),
			fmt.Sprintf("write directly %d+7 in 2", at), fmt.Sprintf("zero %d+3 true", at), fmt.Sprintf("cached %d+4", at), fmt.Sprintf("extents %d+4", at),
			fmt.Sprintf("discard %d+4", at), fmt.Sprintf("allocate %d+4", at), "flush", fmt.Sprintf("direct %d+4", at),
		}
		if !slices.Equal(r.calls, want) {
			t.Errorf("%s: calls\n%s\nwant\n%s", name, strings.Join(r.calls, "\n"), strings.Join(want, "\n"))
		}
		if extent != "10+4 true" {
			t.Errorf("%s: extent %s, want it where the caller asked", name, extent)
		}
	}
}

// Without any capability the same calls come down to reads and writes.
func TestCapabilitiesAreMadeUpFor(t *testing.T) {
	for name, c := range map[string]struct {
		dev func(*recorder) Device
		at  int64
	}{
		"itself": {func(r *recorder) Device { return plain{r} }, 10},
		"region": {func(r *recorder) Device { return Region(plain{r}, 100, 50) }, 110},
	} {
		r := &recorder{Mem: NewMem(1000)}
		extent := useAll(t, c.dev(r))
		want := []string{
			fmt.Sprintf("read %d+4", c.at), fmt.Sprintf("write %d+4", c.at),
			fmt.Sprintf("write %d+4", c.at), fmt.Sprintf("write %d+2", c.at+4),
			fmt.Sprintf("write %d+4", c.at), fmt.Sprintf("write %d+3", c.at+4),
			fmt.Sprintf("write %d+3", c.at), "flush", fmt.Sprintf("read %d+4", c.at),
		}
		if !slices.Equal(r.calls, want) {
			t.Errorf("%s: calls\n%s\nwant\n%s", name, strings.Join(r.calls, "\n"), strings.Join(want, "\n"))
		}
		if extent != "10+4 false" {
			t.Errorf("%s: extent %s, want one allocated piece", name, extent)
		}
		if err := ReadCached(c.dev(r), make([]byte, 1), 0); !errors.Is(err, ErrNotCached) {
			t.Errorf("%s: cached read: got %v, want ErrNotCached", name, err)
		}
	}
}

// Zeros are written in pieces of at most 1 MiB, and the first error ends it.
func TestZeroByWriting(t *testing.T) {
	r := &recorder{Mem: NewMem(4 << 20)}
	if err := Zero(plain{r}, 5, 2<<20+1, false); err != nil {
		t.Fatal(err)
	}
	want := []string{"write 5+1048576", "write 1048581+1048576", "write 2097157+1"}
	if !slices.Equal(r.calls, want) {
		t.Errorf("writes %q, want %q", r.calls, want)
	}
	broken := &limited{Mem: NewMem(4 << 20), left: 1}
	if err := Zero(broken.asPlain(), 0, 3<<20, false); !errors.Is(err, errLimit) {
		t.Errorf("zero of a failing device: got %v", err)
	}
	if broken.calls != 2 {
		t.Errorf("%d writes, want 2: one good, one bad", broken.calls)
	}
	broken = &limited{Mem: NewMem(4 << 20), left: 1}
	if err := WriteV(broken.asPlain(), [][]byte{{1}, {2}, {3}}, 0); !errors.Is(err, errLimit) {
		t.Errorf("gather on a failing device: got %v", err)
	}
}

// limited fails writes after the first left of them.
type limited struct {
	*Mem
	left, calls int
}

var errLimit = errors.New("no more")

func (l *limited) asPlain() Device { return plain{l} }

func (l *limited) WriteAt(p []byte, off int64) (int, error) {
	l.calls++
	if l.calls > l.left {
		return 0, errLimit
	}
	return l.Mem.WriteAt(p, off)
}

func TestRegionPanicsOnABadRange(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Region(NewMem(100), 50, 51)
}
