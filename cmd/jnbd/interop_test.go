package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Other people's NBD programs against the real binary: what they write must be what they
// read, and after a close what the raw image holds.

const interopBytes = 64 << 20

// interopDisk serves a new disk over a unix socket.
func interopDisk(t *testing.T, args ...string) (s *server, diskPath string) {
	t.Helper()
	diskPath = filepath.Join(t.TempDir(), "d.img")
	args = append([]string{diskPath, "--size", fmt.Sprint(interopBytes), "--journal-size", "64M"}, args...)
	return startServer(t, args...), diskPath
}

// interopImage is a file with content that compresses badly and has holes.
func interopImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, 1<<20)
	for off := int64(0); off < interopBytes; off += 3 << 20 {
		random.Read(piece)
		if _, err := f.WriteAt(piece, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(interopBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// sameFiles fails the test unless both files hold the same bytes.
func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	sum := func(path string) [sha256.Size]byte {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(content)
	}
	if sum(a) != sum(b) {
		t.Errorf("%s and %s differ", a, b)
	}
}

func TestNbdinfo(t *testing.T) {
	requireTools(t, "nbdinfo")
	s, _ := interopDisk(t)
	var info struct {
		Exports []struct {
			Name         string `json:"export-name"`
			Size         int64  `json:"export-size"`
			ReadOnly     bool   `json:"is_read_only"`
			MultiConn    bool   `json:"can_multi_conn"`
			Flush        bool   `json:"can_flush"`
			FUA          bool   `json:"can_fua"`
			Trim         bool   `json:"can_trim"`
			Zero         bool   `json:"can_zero"`
			FastZero     bool   `json:"can_fast_zero"`
			PreferredMin int64  `json:"block_size_minimum"`
		} `json:"exports"`
	}
	if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", s.uri)), &info); err != nil {
		t.Fatal(err)
	}
	e := info.Exports[0]
	if e.Name != "d.img" || e.Size != interopBytes || e.ReadOnly || !e.MultiConn || !e.Flush || !e.FUA || !e.Trim || !e.Zero || !e.FastZero || e.PreferredMin != 1 {
		t.Errorf("nbdinfo says %+v", e)
	}
	if list := tool(t, "nbdinfo", "--list", s.uri); !strings.Contains(list, `export="d.img"`) {
		t.Errorf("nbdinfo --list says %s", list)
	}
	s.stop(t)
}

// TestNbdinfoMap: both maps tell what was written and what was trimmed, in the log, home and in
// spare slots.
func TestNbdinfoMap(t *testing.T) {
	requireTools(t, "nbdinfo")
	eachKind(t, testNbdinfoMap)
}

func testNbdinfoMap(t *testing.T, kind diskKind) {
	s, _ := interopDisk(t, kind.flags()...)
	mustMap(t, s, "0+67108864 hole,zero", "0+67108864 absent")
	c := mustDial(t, s.uri)
	for _, w := range []struct{ offset, length uint64 }{{0, 4096}, {4 << 20, 2 << 20}, {5 << 20, 1 << 20}} {
		if err := c.write(w.offset, bytes.Repeat([]byte{1}, int(w.length))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.do(nbdCmdTrim, 0, 4<<20, 64<<10, nil); err != nil {
		t.Fatal(err)
	}
	mustMap(t, s,
		"0+4096 data, 4096+4255744 hole,zero, 4259840+2031616 data, 6291456+60817408 hole,zero",
		"0+4096 local, 4096+4255744 absent, 4259840+2031616 local, 6291456+60817408 absent")
	s.stop(t)
}

// mustMap wants nbdinfo to say so of base:allocation and of qemu:allocation-depth.
func mustMap(t *testing.T, s *server, allocation, depth string) {
	t.Helper()
	for name, want := range map[string]string{"base:allocation": allocation, "qemu:allocation-depth": depth} {
		var extents []struct {
			Offset, Length int64
			Description    string
		}
		if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", "--map="+name, s.uri)), &extents); err != nil {
			t.Fatal(err)
		}
		var pieces []string
		for _, e := range extents {
			pieces = append(pieces, fmt.Sprintf("%d+%d %s", e.Offset, e.Length, e.Description))
		}
		if got := strings.Join(pieces, ", "); got != want {
			t.Errorf("%s is %s\nwant %s", name, got, want)
		}
	}
}

// TestNbdinfoActivation: nbdinfo starts the server itself and passes it a socket.
func TestNbdinfoActivation(t *testing.T) {
	requireTools(t, "nbdinfo")
	diskPath := filepath.Join(t.TempDir(), "d.img")
	size := tool(t, "nbdinfo", "--size", "--", "[", realBinary(t), "serve", diskPath, "--size", fmt.Sprint(interopBytes), "--journal-size", "64M", "--log-level", "warn", "]")
	if strings.TrimSpace(size) != fmt.Sprint(interopBytes) {
		t.Errorf("nbdinfo --size says %q", size)
	}
}

// TestNbdcopy: an image there and back, over several connections, and close.
func TestNbdcopy(t *testing.T) {
	requireTools(t, "nbdcopy")
	eachKind(t, testNbdcopy)
}

func testNbdcopy(t *testing.T, kind diskKind) {
	s, diskPath := interopDisk(t, kind.flags()...)
	source, back := interopImage(t), filepath.Join(t.TempDir(), "back.img")
	tool(t, "nbdcopy", "--connections=4", source, s.uri)
	tool(t, "nbdcopy", "--flush", source, s.uri)
	tool(t, "nbdcopy", "--connections=4", s.uri, back)
	sameFiles(t, source, back)
	s.stop(t)
	runJnbd(t, 0, "close", diskPath)
	sameFiles(t, source, diskPath)
}

func TestQemuImg(t *testing.T) {
	requireTools(t, "qemu-img")
	eachKind(t, testQemuImg)
}

func testQemuImg(t *testing.T, kind diskKind) {
	s, _ := interopDisk(t, kind.flags()...)
	source, back := interopImage(t), filepath.Join(t.TempDir(), "back.qcow2")
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, s.uri)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, s.uri)
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.uri, back)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, back)
	tool(t, "qemu-img", "map", "-f", "raw", s.uri)
	s.stop(t)
}

func TestQemuIo(t *testing.T) {
	requireTools(t, "qemu-io")
	eachKind(t, testQemuIo)
}

func testQemuIo(t *testing.T, kind diskKind) {
	s, _ := interopDisk(t, append(kind.flags(), "-p", "0")...)
	if !strings.HasPrefix(s.uri, "nbd://127.0.0.1:") {
		t.Errorf("uri is %s", s.uri)
	}
	out := tool(t, "qemu-io", "-f", "raw", s.uri,
		"-c", "write -P 0x11 0 1M", "-c", "write -f -P 0x22 4k 4k", "-c", "write -z -u 64k 64k", "-c", "discard 512k 64k", "-c", "flush",
		"-c", "read -P 0x11 0 4k", "-c", "read -P 0x22 4k 4k", "-c", "read -P 0 64k 64k", "-c", "read -P 0 512k 64k", "-c", "read -P 0x11 576k 448k")
	if strings.Contains(out, "Pattern verification failed") {
		t.Error(out)
	}
	s.stop(t)
}

// TestFio: random writes of fio's nbd engine, verified by fio.
func TestFio(t *testing.T) {
	requireTools(t, "fio")
	if engines, err := exec.Command("fio", "--enghelp").Output(); err != nil || !bytes.Contains(engines, []byte("nbd")) {
		if os.Getenv("JNBD_REQUIRE") == "1" {
			t.Fatal("fio has no nbd engine, and JNBD_REQUIRE=1 forbids to skip")
		}
		t.Skip("this fio has no nbd engine")
	}
	eachKind(t, testFio)
}

func testFio(t *testing.T, kind diskKind) {
	s, _ := interopDisk(t, kind.flags()...)
	tool(t, "fio", "--name=t", "--ioengine=nbd", "--uri="+s.uri, "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1",
		"--size=64m", "--io_size=128m", "--iodepth=32", "--fsync=100", "--verify=crc32c", "--verify_fatal=1", "--randseed=1")
	s.stop(t)
}

// TestNbdsh: what only a scripted client asks for.
func TestNbdsh(t *testing.T) {
	requireTools(t, "nbdsh")
	s, _ := interopDisk(t)
	script := `
h.add_meta_context("base:allocation")
h.connect_uri("` + s.uri + `")
assert h.get_size() == 67108864
h.pwrite(b"A" * 5, 3)
assert h.pread(10, 0) == b"\0" * 3 + b"A" * 5 + b"\0" * 2
h.pwrite(b"B" * 4096, 4096, nbd.CMD_FLAG_FUA)
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
h.trim(1 << 20, 1 << 20)
h.cache(4096, 0)
h.flush()
assert h.pread(8192, 0) == b"\0" * 4096 + b"B" * 4096
extents = []
h.block_status(1 << 20, 0, lambda context, off, entries, err: extents.extend(entries))
assert sum(extents[::2]) >= 8192, extents
for i in range(200):
    h.aio_pwrite(bytes([i]) * 4096, i * 4096)
while h.aio_in_flight() > 0:
    h.poll(-1)
for i in range(200):
    assert h.pread(4096, i * 4096) == bytes([i]) * 4096
try:
    h.set_strict_mode(0)
    h.pwrite(b"x" * 4096, 67108864 - 512)
    assert False
except nbd.Error as ex:
    assert ex.errno == "ENOSPC", ex
h.shutdown()
`
	cmd := exec.Command("nbdsh", "-c", "-")
	// nbdsh runs the first python3 of PATH; the distribution's is the one with libnbd.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nbdsh: %v\n%s", err, out)
	}
	s.stop(t)
}
