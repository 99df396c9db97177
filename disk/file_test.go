package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// newFile is a new image of size bytes in a directory of its own.
func newFile(t *testing.T, size int64) *File {
	t.Helper()
	f, err := OpenFile(filepath.Join(t.TempDir(), "image"), FileOptions{Create: true, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(path("image"), []byte("content"), 0o600))
	must(unix.Mkfifo(path("pipe"), 0o600))
	must(os.Symlink("nowhere", path("dangling")))
	must(os.Symlink(".", path("linked dir")))
	listener, err := net.Listen("unix", path("socket"))
	must(err)
	defer func() { _ = listener.Close() }()

	for _, c := range []struct {
		name string
		opt  FileOptions
		want error
	}{
		{".", FileOptions{}, ErrNotDisk},
		{".", FileOptions{ReadOnly: true}, ErrNotDisk},
		{"linked dir", FileOptions{}, ErrNotDisk},
		{"pipe", FileOptions{}, ErrNotDisk},
		{"socket", FileOptions{}, ErrNotDisk},
		{"/dev/null", FileOptions{}, ErrNotDisk},
		{"missing", FileOptions{}, fs.ErrNotExist},
		{"dangling", FileOptions{}, fs.ErrNotExist},
		{"image", FileOptions{Create: true, Size: 100}, fs.ErrExist},
		{"pipe", FileOptions{Create: true, Size: 100}, fs.ErrExist},
		{"new", FileOptions{Create: true, Size: -1}, unix.EINVAL},
		{"new", FileOptions{Create: true, Size: 1, ReadOnly: true}, fs.ErrPermission},
		{"missing/new", FileOptions{Create: true, Size: 1}, fs.ErrNotExist},
	} {
		at := c.name
		if !filepath.IsAbs(at) {
			at = path(at)
		}
		f, err := OpenFile(at, c.opt)
		if err == nil {
			_ = f.Close()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s %+v: got %v, want %v", c.name, c.opt, err, c.want)
		}
	}
	if got, err := os.ReadFile(path("image")); string(got) != "content" || err != nil {
		t.Errorf("the existing image holds %q now (%v)", got, err)
	}
	if _, err := os.Lstat(path("new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused create left a file behind: %v", err)
	}
}

func TestCreateAndReopen(t *testing.T) {
	f := newFile(t, 5000)
	if f.Size() != 5000 || f.BlockDevice() || f.ReadOnly() || f.SectorSize() != 512 {
		t.Errorf("new file: size %d, block %v, read-only %v, sector %d", f.Size(), f.BlockDevice(), f.ReadOnly(), f.SectorSize())
	}
	if err := first(put(f, 4990, 10), f.Flush(), f.SyncAll(), f.Close()); err != nil {
		t.Fatal(err)
	}
	g, err := OpenFile(f.Path(), FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	got := make([]byte, 10)
	if _, err := g.ReadAt(got, 4990); err != nil || got[9] == 0 || g.Size() != 5000 {
		t.Errorf("after reopening: size %d, last byte %d, %v", g.Size(), got[9], err)
	}
	if mtime, err := g.ModTime(); err != nil || mtime.IsZero() {
		t.Errorf("modification time %v, %v", mtime, err)
	}
}

// limitFileSize makes the kernel refuse file bytes from n on (EFBIG), as a full file system
// does, until the test ends.
func limitFileSize(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ) // the error is news enough
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	})
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	limitFileSize(t, 4096)
	path := filepath.Join(t.TempDir(), "image")
	if _, err := OpenFile(path, FileOptions{Create: true, Size: 8192}); !errors.Is(err, unix.EFBIG) {
		t.Errorf("got %v, want %v", err, unix.EFBIG)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the failed create left a file behind: %v", err)
	}
}

// The kernel takes a part of a write, and refuses the rest.
func TestPartialWrites(t *testing.T) {
	f := newFile(t, 64<<10)
	limitFileSize(t, 10000)
	p := bytes.Repeat([]byte{9}, 3000)
	if n, err := f.WriteAt(bytes.Repeat(p, 3), 4000); n != 6000 || !errors.Is(err, unix.EFBIG) {
		t.Errorf("write: %d bytes, %v; want 6000, %v", n, err, unix.EFBIG)
	}
	if n, err := f.WriteVAt([][]byte{p, p, p}, 4000); n != 6000 || !errors.Is(err, unix.EFBIG) {
		t.Errorf("gather: %d bytes, %v; want 6000, %v", n, err, unix.EFBIG)
	}
	if n, err := f.WriteVAt([][]byte{p, p[:1000], p}, 4000); n != 6000 || !errors.Is(err, unix.EFBIG) {
		t.Errorf("gather that ends within a buffer: %d bytes, %v; want 6000, %v", n, err, unix.EFBIG)
	}
}

func TestAfter(t *testing.T) {
	bufs := [][]byte{{1, 2}, {}, {3}, {4, 5, 6}}
	for _, c := range []struct {
		n    int
		want [][]byte
	}{
		{0, [][]byte{{1, 2}, {}, {3}, {4, 5, 6}}},
		{1, [][]byte{{2}, {}, {3}, {4, 5, 6}}},
		{2, [][]byte{{3}, {4, 5, 6}}},
		{4, [][]byte{{5, 6}}},
		{6, [][]byte{}},
	} {
		got := after(bufs, c.n)
		if !slices.EqualFunc(got, c.want, bytes.Equal) {
			t.Errorf("after %d bytes: got %v, want %v", c.n, got, c.want)
		}
	}
	if len(bufs[0]) != 2 {
		t.Error("the caller's buffers were changed")
	}
}

// More buffers than one system call takes, some of them empty.
func TestWriteManyBuffers(t *testing.T) {
	f := newFile(t, 1<<20)
	var bufs [][]byte
	var want []byte
	for i := range 3*iovMax + 5 {
		b := bytes.Repeat([]byte{byte(i)}, i%7)
		bufs, want = append(bufs, b), append(want, b...)
	}
	if n, err := f.WriteVAt(bufs, 77); err != nil || n != int64(len(want)) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(want), err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 77); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back something else: %v", err)
	}
	// A call's worth of empty buffers before the first byte.
	bufs = append(make([][]byte, iovMax+1), []byte{42})
	if _, err := f.WriteVAt(bufs, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(got[:1], 0); err != nil || got[0] != 42 {
		t.Errorf("after empty buffers: read %d, %v", got[0], err)
	}
	if n, err := f.WriteVAt(nil, 0); n != 0 || err != nil {
		t.Errorf("no buffers: %d, %v", n, err)
	}
}

func TestLock(t *testing.T) {
	rw, ro, peek := FileOptions{}, FileOptions{ReadOnly: true}, FileOptions{NoLock: true}
	for _, c := range []struct {
		name          string
		first, second FileOptions
		ok            bool
	}{
		{"two writers", rw, rw, false},
		{"reader beside writer", rw, ro, false},
		{"writer beside reader", ro, rw, false},
		{"two readers", ro, ro, true},
		{"unlocked beside writer", rw, peek, true},
		{"writer beside unlocked", peek, rw, true},
	} {
		image := newFile(t, 512)
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
		one, err := OpenFile(image.Path(), c.first)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		two, err := OpenFile(image.Path(), c.second)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrLocked) {
			t.Errorf("%s: got %v, want ok %v", c.name, err, c.ok)
		}
		if err == nil {
			_ = two.Close()
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		if two, err = OpenFile(image.Path(), c.second); err != nil {
			t.Errorf("%s: after the first closed: %v", c.name, err)
		} else {
			_ = two.Close()
		}
	}
	created := newFile(t, 512)
	if _, err := OpenFile(created.Path(), rw); !errors.Is(err, ErrLocked) {
		t.Errorf("a new file is not locked: %v", err)
	}
}

func TestReadOnlyRefusesChanges(t *testing.T) {
	image := newFile(t, 4096)
	if err := first(put(image, 0, 4096), image.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(image.Path(), FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_, write := f.WriteAt(make([]byte, 1), 0)
	_, gather := f.WriteVAt([][]byte{{0}}, 0)
	for name, err := range map[string]error{
		"write": write, "gather": gather, "zero": f.Zero(0, 1, false), "punch": f.Zero(0, 1, true),
		"discard": f.Discard(0, 4096), "allocate": f.Allocate(0, 1), "resize": f.Truncate(1),
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := f.Flush(); err != nil {
		t.Errorf("a flush has nothing to do, and says %v", err)
	}
	if p := make([]byte, 4096); first(readAll(f, p)) != nil || slices.Contains(p, 0) {
		t.Error("a refused change changed the file")
	}
}

func readAll(dev Device, p []byte) error {
	_, err := dev.ReadAt(p, 0)
	return err
}

// A file that others cut short while it is open: an error, and not zeros.
func TestReadOfAFileCutShort(t *testing.T) {
	f := newFile(t, 8192)
	if err := first(put(f, 0, 8192), os.Truncate(f.Path(), 5000)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if n, err := f.ReadAt(p, 4096); n != 904 || !errors.Is(err, ErrOutOfRange) {
		t.Errorf("read: %d, %v", n, err)
	}
	if n, err := f.ReadDirectAt(p, 4096); n != 904 || !errors.Is(err, ErrOutOfRange) {
		t.Errorf("direct read: %d, %v", n, err)
	}
	if n, err := f.ReadDirectAt(p[:4000], 4097); n != 903 || !errors.Is(err, ErrOutOfRange) {
		t.Errorf("direct read: %d, %v", n, err)
	}
	if err := f.ReadCachedAt(p, 4096); !errors.Is(err, ErrNotCached) {
		t.Errorf("cached read: %v", err)
	}
}

func TestCachedRead(t *testing.T) {
	f := newFile(t, 1<<20)
	if err := put(f, 0, 1<<20); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10000)
	err := f.ReadCachedAt(p, 12345)
	if f.noNowait.Load() {
		if !errors.Is(err, ErrNotCached) {
			t.Errorf("the file system can't say, and the answer is %v", err)
		}
	} else if err != nil || p[0] != byte(12345&0xff)|1 {
		t.Errorf("read of what was just written: %v, first byte %d", err, p[0])
	}
	if err := f.ReadCachedAt(nil, 0); err != nil {
		t.Errorf("read of nothing: %v", err)
	}
	f.noNowait.Store(true)
	if err := f.ReadCachedAt(p, 0); !errors.Is(err, ErrNotCached) {
		t.Errorf("without RWF_NOWAIT: %v", err)
	}
}

func TestClosedFile(t *testing.T) {
	f := newFile(t, 4096)
	if _, err := f.ReadDirectAt(make([]byte, 1), 0); err != nil { // opens the twin
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, read := f.ReadAt(nil, 0)
	_, direct := f.ReadDirectAt(nil, 0)
	_, write := f.WriteAt(nil, 0)
	_, mtime := f.ModTime()
	for name, err := range map[string]error{
		"read": read, "direct read": direct, "write": write, "flush": f.Flush(), "sync": f.SyncAll(),
		"zero": f.Zero(0, 0, true), "extents": f.Extents(0, 0, nil), "close": f.Close(), "mtime": mtime,
		"cached read": f.ReadCachedAt(nil, 0), "resize": f.Truncate(1),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Close beside everything else: each call works or says that the file is closed.
func TestCloseWaits(t *testing.T) {
	f := newFile(t, 1<<20)
	var calls, started sync.WaitGroup
	for i := range 4 {
		started.Add(1)
		calls.Go(func() {
			p := make([]byte, 5000)
			for n := 0; ; n++ {
				_, err := f.WriteAt(p, int64(i)*8192)
				if err == nil {
					err = f.Zero(int64(i)*8192+100, 300, n%2 == 0)
				}
				if err == nil {
					_, err = f.ReadDirectAt(p, int64(i)*8192)
				}
				if n == 0 {
					started.Done()
				}
				if err != nil {
					if !errors.Is(err, fs.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	started.Wait()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
}

func TestDirectRead(t *testing.T) {
	const size = 3<<20 + 700
	f := newFile(t, size)
	if err := put(f, 0, size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	if err := readAll(f, want); err != nil {
		t.Fatal(err)
	}
	twin, err := f.direct.open(f.fd, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, refused := range []bool{false, true} {
		if refused {
			f.direct.close()
			f.direct.refused = true
		}
		for _, r := range [][2]int64{{0, size}, {0, 0}, {1, 1}, {4095, 2}, {size - 1, 1}, {511, 2 << 20}, {4096, 4096}, {size, 0}} {
			got := make([]byte, r[1])
			if n, err := f.ReadDirectAt(got, r[0]); err != nil || n != int(r[1]) || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
				t.Errorf("O_DIRECT refused %v: [%d,+%d): %d bytes, %v", refused, r[0], r[1], n, err)
			}
			if twin < 0 || refused {
				continue // the file system has no O_DIRECT
			}
			clear(got)
			if n, err := readAligned(twin, got, r[0]); err != nil || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
				t.Errorf("with O_DIRECT: [%d,+%d): %d bytes, %v", r[0], r[1], n, err)
			}
		}
	}
}

func TestAlignedBuffer(t *testing.T) {
	for n := range 3 {
		b := alignedBuffer(n * 100)
		if len(b) != n*100 || cap(b) != n*100 {
			t.Errorf("buffer of %d bytes: length %d, capacity %d", n*100, len(b), cap(b))
		}
	}
}

// A flush asks the kernel, which knows better than to sync a pipe. (That the kernel then
// makes the bytes durable, powercut shows.)
func TestFlushAsksTheKernel(t *testing.T) {
	f := newFile(t, 4096)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	file := f.fd
	t.Cleanup(func() {
		f.fd = file
		_ = unix.Close(pipe[0])
		_ = unix.Close(pipe[1])
	})
	f.fd = pipe[0]
	if err := f.Flush(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("flush of a pipe: %v, want EINVAL from the kernel", err)
	}
	if err := f.SyncAll(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("sync of a pipe: %v, want EINVAL from the kernel", err)
	}
}
