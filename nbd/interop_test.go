package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tool finds a program. With JNBD_REQUIRE=1, as in CI, a missing one fails the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("JNBD_REQUIRE") == "1" {
		t.Fatalf("%s is not installed, and JNBD_REQUIRE=1", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// run runs a program and returns its output; it must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, name), args...)
	// nbdsh is a script for the python that its package was built for, the host's own.
	cmd.Dir = t.TempDir() // fio leaves a file
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// interopDisk serves a disk on unix and TCP, and returns the URIs.
func interopDisk(t *testing.T, size int) (d *memDisk, uris map[string]string) {
	t.Helper()
	d = newMemDisk(size)
	s := &Server{Exports: []Export{{Name: "disk", Description: "a test disk", Device: d}}}
	uris = map[string]string{"unix": "nbd+unix:///disk?socket=" + startServer(t, s)}
	l, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	uris["tcp"] = URI(l, "disk")
	served := make(chan struct{})
	go func() { _ = s.Serve(l); close(served) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	return d, uris
}

// image is a file with data and holes.
func image(t *testing.T, size int) (path string, content []byte) {
	t.Helper()
	content = make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for from := 0; from < size; from += 1 << 20 {
		if random.IntN(2) == 0 {
			for i := from; i < min(from+300000, size); i++ {
				content[i] = byte(random.Uint32())
			}
		}
	}
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestNbdinfo(t *testing.T) {
	d, uris := interopDisk(t, 8<<20)
	for _, uri := range uris {
		out := run(t, "nbdinfo", uri)
		for _, want := range []string{
			"using structured packets", "export-size: 8388608", "base:allocation", "is_read_only: false",
			"can_cache: true", "can_df: true", "can_fast_zero: true", "can_flush: true", "can_fua: true",
			"can_multi_conn: true", "can_trim: true", "can_zero: true", "block_size_minimum: 1",
			"block_size_preferred: 4096", "block_size_maximum: 33554432",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nbdinfo %s does not say %q:\n%s", uri, want, out)
			}
		}
	}
	if out := run(t, "nbdinfo", "--list", uris["unix"]); !strings.Contains(out, `export="disk"`) || !strings.Contains(out, "a test disk") {
		t.Errorf("nbdinfo --list:\n%s", out)
	}
	if out := run(t, "nbdinfo", "--map", uris["unix"]); !strings.Contains(out, "hole,zero") {
		t.Errorf("nbdinfo --map:\n%s", out)
	}
	d.mu.Lock() // the server has been asked before
	d.markLocked(1<<20, 1<<20, true)
	d.mu.Unlock()
	out := run(t, "nbdinfo", "--map=qemu:allocation-depth", uris["unix"])
	if got, want := strings.Fields(out), strings.Fields("0 1048576 0 absent 1048576 1048576 1 local 2097152 6291456 0 absent"); !slices.Equal(got, want) {
		t.Errorf("nbdinfo --map=qemu:allocation-depth says %v, want %v", got, want)
	}
}

func TestNbdcopy(t *testing.T) {
	d, uris := interopDisk(t, 20<<20+512)
	path, content := image(t, 20<<20+512)
	for kind, uri := range uris {
		run(t, "nbdcopy", "--connections=4", "--flush", path, uri)
		if !bytes.Equal(d.content(0, len(content)), content) {
			t.Errorf("%s: the disk differs from what was copied to it", kind)
		}
		back := filepath.Join(t.TempDir(), "back")
		run(t, "nbdcopy", uri, back)
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: what was copied back differs: %v", kind, err)
		}
	}
	if d.syncs.Load() == 0 {
		t.Error("nbdcopy --flush made nothing durable")
	}
}

func TestQemuImg(t *testing.T) {
	d, uris := interopDisk(t, 20<<20)
	path, content := image(t, 20<<20)
	for kind, uri := range uris {
		run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, uri)
		if !bytes.Equal(d.content(0, len(content)), content) {
			t.Errorf("%s: the disk differs from what was converted to it", kind)
		}
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, uri)
		if out := run(t, "qemu-img", "map", "--output=json", uri); !strings.Contains(out, `"zero": true`) {
			t.Errorf("%s: qemu-img map knows of no zeros:\n%s", kind, out)
		}
	}
	target := "driver=nbd,export=disk,x-dirty-bitmap=qemu:allocation-depth,server.type=unix,server.path=" + strings.TrimPrefix(uris["unix"], "nbd+unix:///disk?socket=")
	out := run(t, "qemu-img", "map", "--output=json", "--image-opts", target)
	var pieces []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal([]byte(out), &pieces); err != nil {
		t.Fatalf("qemu-img map: %v\n%s", err, out)
	}
	for _, p := range pieces {
		// With x-dirty-bitmap, bit 0 of what the context tells stands for "no data".
		if d.held[p.Start/memPage] == p.Data {
			t.Errorf("qemu-img map with allocation-depth: %+v, and the page is held: %v", p, d.held[p.Start/memPage])
		}
	}
	if len(pieces) < 2 {
		t.Errorf("qemu-img map with allocation-depth found %d pieces", len(pieces))
	}
}

func TestQemuIO(t *testing.T) {
	_, uris := interopDisk(t, 64<<20)
	out := run(t, "qemu-io", "-f", "raw", uris["unix"],
		"-c", "write -P 7 1000 100000", "-c", "read -P 7 1000 100000", "-c", "write -f -P 8 1M 4M",
		"-c", "write -z 2M 64k", "-c", "write -z -u 3M 64k", "-c", "write -z -n 3M 64k", "-c", "discard 4M 64k",
		"-c", "read -P 0 2M 64k", "-c", "read -P 0 3M 64k", "-c", "read -P 0 4M 64k", "-c", "read -P 8 1M 1M",
		"-c", "aio_write -P 9 8M 32M", "-c", "aio_write -P 10 50M 4k", "-c", "aio_flush", "-c", "flush",
		"-c", "read -P 9 8M 32M", "-c", "read -P 10 50M 4k")
	if strings.Contains(out, "failed") || strings.Contains(strings.ToLower(out), "error") {
		t.Errorf("qemu-io:\n%s", out)
	}
}

func TestNbdsh(t *testing.T) {
	_, uris := interopDisk(t, 8<<20)
	const script = `
import errno
h.pwrite(b"x" * 5000, 12345, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 12345) == b"x" * 5000
assert h.pread(4096, 1 << 20) == bytes(4096)
h.flush()
h.cache(1 << 20, 0)
h.zero(1000, 13000, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4 << 20, 1 << 20)
assert h.pread(5000, 12345) == b"x" * 655 + bytes(1000) + b"x" * 3345
chunks = []
def chunk(data, offset, status, err):
    chunks.append((offset, len(data), status))
assert h.pread_structured(1 << 20, 0, chunk) is not None
assert any(c[2] == nbd.READ_HOLE for c in chunks), chunks
chunks.clear()
h.pread_structured(1 << 20, 0, chunk, nbd.CMD_FLAG_DF)
assert len(chunks) == 1, chunks
extents = []
def extent(context, offset, entries, err):
    extents.extend(entries)
h.block_status(8 << 20, 0, extent)
assert sum(extents[0::2]) == 8 << 20, extents
extents.clear()
h.block_status(8 << 20, 0, extent, nbd.CMD_FLAG_REQ_ONE)
assert len(extents) == 2, extents
h.set_strict_mode(0)
for f, want in (
    (lambda: h.pread(2, (8 << 20) - 1), errno.EINVAL),
    (lambda: h.pwrite(b"xx", (8 << 20) - 1), errno.ENOSPC),
    (lambda: h.trim(2, (8 << 20) - 1), errno.EINVAL),
    (lambda: h.zero(2, (8 << 20) - 1), errno.ENOSPC),
    (lambda: h.pread(1, 0, 1 << 14), errno.EINVAL),
):
    try:
        f()
        assert False, "no error"
    except nbd.Error as e:
        assert e.errnum == want, (e.errnum, want)
h.shutdown()
`
	run(t, "nbdsh", "--base-allocation", "-u", uris["unix"], "-c", script)
}

func TestFio(t *testing.T) {
	_, uris := interopDisk(t, 32<<20)
	out := run(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+uris["unix"], "--rw=randrw", "--bsrange=512-128k",
		"--size=32M", "--io_size=64M", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--fsync=50")
	if !strings.Contains(out, "err= 0") {
		t.Errorf("fio:\n%s", out)
	}
}

// The tools' own idea of a URI is the one that URI prints.
func TestURIWithTools(t *testing.T) {
	dir := filepath.Join(shortDir(t), "a b&c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen("unix", filepath.Join(dir, "s+t"))
	if err != nil {
		t.Fatal(err)
	}
	const name = "my disk/ü?#"
	s := &Server{Exports: []Export{{Device: newMemDisk(4096)}, {Name: name, Device: newMemDisk(1 << 20)}}}
	served := make(chan struct{})
	go func() { _ = s.Serve(l); close(served) }()
	defer func() { _ = s.Close(); <-served }()
	if out := run(t, "nbdinfo", "--size", URI(l, name)); out != fmt.Sprintln(1<<20) {
		t.Errorf("nbdinfo --size %s: %s", URI(l, name), out)
	}
}
