package powercut

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"jnbd/attach"
	"jnbd/nbd"
	"jnbd/nbd/nbdclient"
	"jnbd/testtool"
)

// failing is a disk whose writes, or flushes, fail from a moment on, until it is repaired.
type failing struct {
	Export
	writes, flushes atomic.Bool
}

func (f *failing) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	if f.writes.Load() {
		return syscall.EIO
	}
	return f.Export.WriteBatch(data, offsets, flush, admit)
}

func (f *failing) Zero(off, n int64, punch bool, admit func() bool) error {
	if f.writes.Load() {
		return syscall.EIO
	}
	return f.Export.Zero(off, n, punch, admit)
}

func (f *failing) Trim(off, n int64, admit func() bool) error { return f.Zero(off, n, true, admit) }

func (f *failing) Sync() error {
	if f.flushes.Load() {
		return syscall.EIO
	}
	return f.Export.Sync()
}

// TestDeviceFails is P9 of the unmodified binary: the device below one of two exports fails. Its
// clients get errors for changes and flushes from then on, and still read; the other export
// goes on; the server says what has happened; and when the device is repaired, a restart has
// everything that was flushed.
func TestDeviceFails(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: a journal of 64 MiB under FUSE takes long with the race detector")
	}
	jnbd := program(buildJnbd(t))
	for _, tt := range []struct {
		mode    string
		flushes bool
	}{{"data", false}, {"ordered", true}, {"auto", false}} {
		what := "writes"
		if tt.flushes {
			what = "flushes"
		}
		t.Run(tt.mode+"-"+what, func(t *testing.T) { deviceFails(t, jnbd, tt.mode, tt.flushes) })
	}
}

func deviceFails(t *testing.T, jnbd program, mode string, flushes bool) {
	dir := t.TempDir()
	dev := &failing{Export: Export{newRecorder(&tape{clock: &Clock{}}, backingDisk, 128<<20, 0)}}
	m, err := newMount(dev, filepath.Join(dir, "bad"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.unmount(); err != nil {
			t.Error(err)
		}
	}()
	good, socket := filepath.Join(dir, "good.img"), filepath.Join(dir, "s.sock")
	for _, args := range [][]string{
		{"create", m.path, "--mode", mode, "--size", "16M", "--journal-size", "64M", "--journal", "internal"},
		{"create", good, "--size", "16M", "--journal-size", "64M"},
	} {
		if err := jnbd.must(args...); err != nil {
			t.Fatal(err)
		}
	}
	address := testtool.FreeAddress(t)
	s, err := jnbd.serve(m.path, socket, good, "--log-level", "warn", "--metrics", address)
	if err != nil {
		t.Fatal(err)
	}
	killed := false
	defer func() {
		if !killed {
			_ = s.kill()
		}
	}()
	bad, other := connect(t, socket, "disk"), connect(t, socket, "good.img")
	before := incarnation(t, bad)
	flushed, bulk := bytes.Repeat([]byte{1}, 4096), bytes.Repeat([]byte{2}, 1<<20)
	for off, p := range map[int64][]byte{0: flushed, 1 << 20: bulk} {
		if _, err := bad.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := bad.Flush(); err != nil {
		t.Fatal(err)
	}

	dev.writes.Store(!flushes)
	dev.flushes.Store(flushes)
	if _, err := bad.WriteAt(bulk, 4<<20); flushes == (err != nil) {
		t.Errorf("a write as the device fails: %v", err)
	}
	for range 2 {
		if err := bad.Flush(); !isEIO(err) {
			t.Errorf("a flush after the failure: %v", err)
		}
		if _, err := bad.WriteAt(flushed, 8<<20); !isEIO(err) {
			t.Errorf("a write after the failure: %v", err)
		}
	}
	mustRead(t, bad, 0, flushed)
	mustRead(t, bad, 1<<20, bulk)
	if _, err := other.WriteAt(bulk, 0); err != nil {
		t.Errorf("the other export: %v", err)
	}
	if err := other.Flush(); err != nil {
		t.Errorf("the other export: %v", err)
	}
	mustRead(t, other, 0, bulk)
	if code, body := get(t, "http://"+address+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "disk is poisoned") {
		t.Errorf("/healthz says %d, %s", code, body)
	}
	if _, body := get(t, "http://"+address+"/metrics"); !strings.Contains(body, `jnbd_poisoned{export="disk"} 1`) ||
		!strings.Contains(body, `jnbd_poisoned{export="good.img"} 0`) {
		t.Errorf("/metrics says %s", body)
	}

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	killed = true
	hung := time.AfterFunc(commandTimeout, func() { _ = s.cmd.Process.Kill() })
	if err := s.cmd.Wait(); err == nil {
		t.Error("a server with a poisoned disk ended with 0")
	}
	hung.Stop()
	if log := s.stderr.String(); !strings.Contains(log, "disk is poisoned: writes and flushes fail until jnbd is restarted") ||
		!strings.Contains(log, "the superblock may not tell clients that writes are lost") ||
		!strings.Contains(log, "input/output error") || strings.Contains(log, "panic") {
		t.Errorf("the log says\n%s", log)
	}

	dev.writes.Store(false)
	dev.flushes.Store(false)
	again, err := jnbd.serve(m.path, socket, "--log-level", "warn")
	if err != nil {
		t.Fatal(err)
	}
	repaired := connect(t, socket, "")
	// What can't be written can't tell of the failure either; nothing that was replied to is lost then.
	if after := incarnation(t, repaired); after == before && flushes {
		t.Errorf("incarnation %s before and after flushes have failed", before)
	}
	mustRead(t, repaired, 0, flushed)
	mustRead(t, repaired, 1<<20, bulk)
	if _, err := repaired.WriteAt(flushed, 12<<20); err != nil {
		t.Error(err)
	}
	if err := errors.Join(repaired.Flush(), repaired.Close(), again.stop(), jnbd.must("check", m.path), os.Remove(good)); err != nil {
		t.Error(err)
	}
}

// get is what a server says to a URL.
func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// isEIO reports whether a server has answered with EIO.
func isEIO(err error) bool {
	var told *nbdclient.RequestError
	return errors.As(err, &told) && told.Errno == nbd.EIO
}

// connect attaches to an export.
func connect(t *testing.T, socket, export string) *nbdclient.Client {
	t.Helper()
	ctx := context.Background()
	h, err := nbdclient.Dial(ctx, nbdclient.URI{Network: "unix", Address: socket}, nbdclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, info, err := h.Go(ctx, export)
	if err != nil {
		t.Fatal(err)
	}
	c := nbdclient.NewClient(conn, info)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// incarnation is the one that the server tells.
func incarnation(t *testing.T, c *nbdclient.Client) string {
	t.Helper()
	identity, _, ok := attach.ParseIdentity(c.Info().Description)
	if !ok {
		t.Fatalf("no identity in %q", c.Info().Description)
	}
	return identity.Incarnation
}

// mustRead wants p at off.
func mustRead(t *testing.T, c *nbdclient.Client, off int64, p []byte) {
	t.Helper()
	got := make([]byte, len(p))
	if _, err := c.ReadAt(got, off); err != nil {
		t.Errorf("read %d bytes at %d: %v", len(p), off, err)
	} else if !bytes.Equal(got, p) {
		t.Errorf("%d bytes at %d are not what was written", len(p), off)
	}
}
