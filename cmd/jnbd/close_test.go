package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/nbd/nbdclient"
)

// Close leaves the raw image that clients read (P8), also when it was killed on its way:
// what was home stays home, and the next close goes on.

const (
	closeKills = 10
	closeDisk  = 96 << 20
)

func TestCloseKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	scanVariable(t, killSeedVariable, &seed)
	t.Logf("%s=%d", killSeedVariable, seed)
	eachKind(t, func(t *testing.T, kind diskKind) {
		random := rand.New(rand.NewPCG(seed, 3))
		// A twin that nobody kills tells how long it takes.
		twin, want := filledDisk(t, kind, random)
		began := time.Now()
		mustClose(t, twin, want)
		whole := time.Since(began)

		diskPath, want := filledDisk(t, kind, random)
		for killed, window := 0, whole/4; killed < closeKills; {
			if closeAndKill(t, diskPath, time.Duration(random.Int64N(int64(window)))) {
				killed++
				if random.IntN(4) == 0 && !isClosed(t, diskPath) {
					mustServe(t, diskPath, want)
				}
				if !isClosed(t, diskPath) {
					continue
				}
			}
			// It had ended before. Look at what it left, and kill another one sooner.
			t.Logf("closed after %d kills in %s each at most", killed, window)
			mustClose(t, diskPath, want)
			diskPath, want = filledDisk(t, kind, random)
			if window /= 2; window < time.Millisecond {
				t.Fatalf("a close that took %s ends before it can be killed", whole)
			}
		}
		mustClose(t, diskPath, want)
		if !kind.internal {
			mustServe(t, diskPath, want)
		}
	})
}

// filledDisk makes a disk whose server was killed with a log to be brought home and, if the
// mode writes once, blocks that are displaced; and returns what clients read of it.
func filledDisk(t *testing.T, kind diskKind, random *rand.Rand) (diskPath string, content []byte) {
	t.Helper()
	diskPath = filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, append(kind.flags(), diskPath, "--size", formatSize(closeDisk), "--journal-size", "64M")...)
	c := connect(t, s.uri, nbdclient.Options{})
	noise := rand.NewChaCha8([32]byte{byte(random.Uint32())})
	p := make([]byte, 1<<20)
	write := func(n, off int64) {
		noise.Read(p[:n])
		if _, err := c.WriteAt(p[:n], off); err != nil {
			t.Fatal(err)
		}
	}
	for off := int64(0); off < 40<<20; off += 1 << 20 {
		write(1<<20, off)
	}
	for off := int64(0); off < 16<<20; off += 1 << 20 { // less than auto's spare room
		write(1<<20, off+random.Int64N(1<<20))
	}
	for range 1000 {
		write(1+random.Int64N(8<<10), random.Int64N(closeDisk-8<<10))
	}
	for range 20 {
		if err := c.Trim(random.Int64N(closeDisk-1<<20), 1+random.Int64N(1<<20), 0); err != nil {
			t.Fatal(err)
		}
	}
	content = make([]byte, closeDisk)
	if n, err := c.ReadAt(content, 0); n != closeDisk || (err != nil && !errors.Is(err, io.EOF)) {
		t.Fatal(err)
	}
	s.kill()
	if got := displacedBytes(t, diskPath) > 0; got != kind.writesOnce() {
		t.Fatalf("blocks are displaced: %v, want %v", got, kind.writesOnce())
	}
	return diskPath, content
}

// closeAndKill kills a close after some time, unless it has ended with success.
func closeAndKill(t *testing.T, diskPath string, after time.Duration) (killed bool) {
	t.Helper()
	s := newServer(t, "close", diskPath)
	if err := s.start(t); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(after, func() { s.cmd.Process.Kill() })
	defer kill.Stop()
	if err := s.cmd.Wait(); err == nil {
		return false
	}
	if !s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("jnbd close: %v\n%s", s.cmd.ProcessState, s.stderr)
	}
	return true
}

// isClosed reports whether the image has lost its internal journal.
func isClosed(t *testing.T, diskPath string) bool {
	t.Helper()
	info, err := os.Stat(diskPath)
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat(beside(diskPath))
	return errors.Is(err, fs.ErrNotExist) && info.Size() == closeDisk
}

// mustClose closes a disk, unless its journal is cut off already, and compares its raw image.
func mustClose(t *testing.T, diskPath string, want []byte) {
	t.Helper()
	if !isClosed(t, diskPath) {
		if out := runJnbd(t, 0, "close", diskPath); !strings.Contains(out, "safe to remove") {
			t.Errorf("jnbd close says %q", out)
		}
	}
	image, err := os.ReadFile(diskPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, want) {
		t.Errorf("the raw image after close, of %d bytes, is not what clients read: %v", len(image), firstDifference(0, image[:min(len(image), len(want))], want))
	}
}

// mustServe serves a disk, compares what clients read, and kills the server.
func mustServe(t *testing.T, diskPath string, want []byte) {
	t.Helper()
	s := startServer(t, diskPath)
	c := connect(t, s.uri, nbdclient.Options{})
	got := make([]byte, len(want))
	if n, err := c.ReadAt(got, 0); n != len(got) {
		t.Fatal(err)
	}
	s.kill()
	if !bytes.Equal(got, want) {
		t.Fatalf("after a killed close: %v", firstDifference(0, got, want))
	}
}
