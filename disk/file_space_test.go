package disk

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// blocksOf is the space that a file takes, in bytes.
func blocksOf(t *testing.T, f *File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(f.Path(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestZeroAndSpace(t *testing.T) {
	const mib = 1 << 20
	f := newFile(t, 4*mib)
	if err := put(f, 0, 2*mib); err != nil {
		t.Fatal(err)
	}
	if err := first(f.Zero(0, 4*mib, false), f.Flush()); err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(t, f); got < 4*mib {
		t.Errorf("zeroed without punch: %d bytes are allocated, want all of %d", got, 4*mib)
	}
	if err := first(put(f, 0, 4*mib), f.Zero(mib, 2*mib, true), f.Flush()); err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(t, f); got >= 3*mib {
		t.Errorf("after a punch of 2 MiB of 4: %d bytes are allocated", got)
	}
	if err := first(f.Discard(0, mib), f.Flush()); err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(t, f); got >= 2*mib {
		t.Errorf("after a discard of 1 MiB of 2: %d bytes are allocated", got)
	}
	p := make([]byte, 4*mib)
	if err := readAll(f, p); err != nil || !bytes.Equal(p[:3*mib], make([]byte, 3*mib)) || bytes.IndexByte(p[3*mib:], 0) >= 0 {
		t.Errorf("zeros are not where they belong: %v", err)
	}
}

func TestFileExtents(t *testing.T) {
	const mib = 1 << 20
	f := newFile(t, 4*mib)
	if err := first(put(f, mib, mib), f.Flush()); err != nil {
		t.Fatal(err)
	}
	var data, holes int64
	if err := f.Extents(mib/2, 3*mib, func(off, n int64, hole bool) bool {
		if hole {
			holes += n
			if off < 2*mib && off+n > mib {
				t.Errorf("[%d,+%d) is said to be a hole, and was written", off, n)
			}
		} else {
			data += n
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if data+holes != 3*mib || data < mib || holes < mib {
		t.Errorf("%d bytes of data and %d of holes, want about 1 MiB and 2 MiB", data, holes)
	}
	visits := 0
	if err := f.Extents(0, 4*mib, func(int64, int64, bool) bool { visits++; return false }); err != nil || visits != 1 {
		t.Errorf("%d visits after false, %v", visits, err)
	}
	// A visit may use the file, and its own close.
	if err := f.Extents(0, mib, func(off, n int64, _ bool) bool { return f.Zero(off, n, true) == nil }); err != nil {
		t.Error(err)
	}
}

func TestAllocate(t *testing.T) {
	const mib = 1 << 20
	f := newFile(t, 8*mib)
	if err := put(f, 100, 5); err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(0, 8*mib); err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(t, f); got < 8*mib {
		t.Errorf("%d bytes are allocated, want %d", got, 8*mib)
	}
	p := make([]byte, 6)
	if _, err := f.ReadAt(p, 99); err != nil || p[0] != 0 || p[1] == 0 {
		t.Errorf("content changed: %v, %v", p, err)
	}
	// More than any host of these tests has free, and nothing is taken on the way.
	huge := newFile(t, 15<<40)
	err := huge.Allocate(0, 15<<40)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("allocate of 15 TiB: got %v, want %v", err, unix.ENOSPC)
	}
	if got := blocksOf(t, huge); got > mib {
		t.Errorf("a refused allocate took %d bytes", got)
	}
}

func TestTruncate(t *testing.T) {
	f := newFile(t, 1000)
	if err := first(put(f, 0, 1000), f.Truncate(2000), f.Flush()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1000)
	if _, err := f.ReadAt(p, 1000); err != nil || !bytes.Equal(p, make([]byte, 1000)) {
		t.Errorf("the new part: %v", err)
	}
	if err := f.Truncate(500); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(p[:1], 500); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("write past the new end: %v", err)
	}
	if err := f.Truncate(-1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("resize to -1: %v", err)
	}
	if info, err := os.Stat(f.Path()); err != nil || info.Size() != 500 || f.Size() != 500 {
		t.Errorf("size %v (%v), want 500", f.Size(), err)
	}
}
