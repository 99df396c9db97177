package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// asBlockDevice makes the code take an image file for a block device. The kernel refuses
// all that only block devices have, so that the last resorts are what happens.
func asBlockDevice(f *File) *File {
	f.block = true
	f.sectorSize = 4096
	return f
}

// loopDevice is a real block device of size bytes over a new image file, or why there can't
// be one: it takes root, and the loop driver.
func loopDevice(t *testing.T, size int64) (path string, err error) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = control.Close() }()
	backing, err := os.Create(filepath.Join(t.TempDir(), "loop"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backing.Close() }() // the driver holds its own
	if err := backing.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for range 8 { // another process may take the number first
		var number int
		if number, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return "", err
		}
		path = fmt.Sprintf("/dev/loop%d", number)
		var node *os.File
		if node, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return "", err
		}
		if err = unix.IoctlSetInt(int(node.Fd()), unix.LOOP_SET_FD, int(backing.Fd())); err == nil {
			t.Cleanup(func() {
				_ = unix.IoctlSetInt(int(node.Fd()), unix.LOOP_CLR_FD, 0)
				_ = node.Close()
			})
			return path, nil
		}
		_ = node.Close()
	}
	return "", err
}

// openBlockDevice is a block device of size bytes: a loop device where the machine lets us
// have one, else an image file in its place.
func openBlockDevice(t *testing.T, size int64) *File {
	t.Helper()
	path, err := loopDevice(t, size)
	if err != nil {
		t.Logf("no loop device (%v): an image file stands in", err)
		return asBlockDevice(newFile(t, size))
	}
	f, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestBlockDevice(t *testing.T) {
	const size = 2 << 20
	f := openBlockDevice(t, size)
	if !f.BlockDevice() || f.Size() != size || f.SectorSize() < 512 {
		t.Errorf("block %v, %d bytes, sectors of %d", f.BlockDevice(), f.Size(), f.SectorSize())
	}
	for seed := range uint64(3) {
		if err := f.Zero(0, size, true); err != nil {
			t.Fatal(err)
		}
		runModel(t, f, seed)
	}
	if err := f.Truncate(4096); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("resize of a block device: %v", err)
	}
}

// Zeros and discards of any range leave the bytes beside it alone.
func TestBlockDeviceEdges(t *testing.T) {
	const size = 64 << 10
	f := openBlockDevice(t, size)
	for _, r := range [][2]int64{
		{0, size},
		{0, 512},
		{512, 4096},
		{4096, 8192},
		{1, 1},
		{511, 2},
		{4095, 4098},
		{100, 300},
		{8191, 4097},
		{size - 1, 1},
		{4096, 0},
		{513, 510},
	} {
		off, n := r[0], r[1]
		for name, zero := range map[string]func() error{
			"zero":    func() error { return f.Zero(off, n, false) },
			"punch":   func() error { return f.Zero(off, n, true) },
			"discard": func() error { return f.Discard(off, n) },
		} {
			if err := put(f, 0, size); err != nil {
				t.Fatal(err)
			}
			want, got := make([]byte, size), make([]byte, size)
			if err := first(readAll(f, want), zero(), readAll(f, got)); err != nil {
				t.Fatalf("%s [%d,+%d): %v", name, off, n, err)
			}
			if clear(want[off : off+n]); name == "discard" {
				copy(want[off:off+n], got[off:off+n]) // may be anything
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s [%d,+%d) differs", name, off, n)
			}
		}
	}
}

func TestSectorsIn(t *testing.T) {
	f := &File{sectorSize: 4096}
	for _, c := range [][4]int64{
		{0, 8192, 0, 8192},
		{1, 8192, 4096, 4096},
		{1, 4095, 4096, 0},
		{4096, 4095, 4096, 0},
		{4095, 4098, 4096, 4096},
		{100, 200, 4096, 0},
		{0, 0, 0, 0},
	} {
		if first, n := f.sectorsIn(c[0], c[1]); n != c[3] || n > 0 && first != c[2] {
			t.Errorf("sectors in [%d,+%d): got [%d,+%d), want [%d,+%d)", c[0], c[1], first, n, c[2], c[3])
		}
	}
}

// Who has a block device open for writing has it alone; readers may look.
func TestBlockDeviceLock(t *testing.T) {
	path, err := loopDevice(t, 1<<20)
	if err != nil {
		t.Logf("no loop device (%v): an image file stands in", err)
		image := newFile(t, 1<<20)
		path = image.Path()
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second writer: got %v, want ErrLocked", err)
	}
	peek, err := OpenFile(path, FileOptions{ReadOnly: true, NoLock: true})
	if err != nil {
		t.Fatalf("a look: %v", err)
	}
	if err := peek.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenFile(path, FileOptions{Create: true, Size: 512}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a device: got %v, want %v", err, fs.ErrExist)
	}
}

// A drive with nothing in it is an error that says so, and not a disk of no bytes.
func TestEmptyBlockDevice(t *testing.T) {
	path, err := loopDevice(t, 0)
	if err != nil {
		t.Logf("no loop device (%v): the ioctl's refusal stands in", err)
		if err := asBlockDevice(newFile(t, 0)).measureBlockDevice(); !errors.Is(err, unix.ENOTTY) {
			t.Errorf("got %v, want %v", err, unix.ENOTTY)
		}
		return
	}
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, errNoMedium) {
		t.Errorf("got %v, want %v", err, errNoMedium)
	}
}
