package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/nbd/nbdclient"
)

// Write once (P5), read from the kernel's own counters: bytes written to the host for each
// byte from the client, from the start of the server to its end, so that superblocks, log,
// stored state and checkpoints count, too. In files they are what the process wrote
// (/proc/PID/io), on block devices what the devices did (/sys/block/DEVICE/stat).

// mostWritten is the most that is allowed for bulk, by mode.
var mostWritten = map[string]float64{"data": 2.1, "ordered": 1.02, "auto": 1.02}

const (
	writtenDisk    = 160 << 20 // a quarter of it, the spare room on a shared device, holds an overwrite
	writtenRequest = 1 << 20
	writtenDepth   = 8
	writtenFlush   = 16 // requests for each flush
)

// bulkWork is bulk written by a client.
type bulkWork struct {
	name   string
	mib    int // of the disk, from its start
	passes int // over them, each one with a flush at its end
}

// bulkWorks are done one after the other, each by a server of its own.
var bulkWorks = []bulkWork{
	{"fresh", 64, 1},
	{"overwrite", 36, 1},
	{"hundred passes", 2, 100},
}

// bytes is what the client writes.
func (w bulkWork) bytes() int64 { return int64(w.mib) * int64(w.passes) << 20 }

// write does the work, writtenDepth requests at a time.
func (w bulkWork) write(c *nbdclient.Client, random *rand.ChaCha8) error {
	buffers := make(chan []byte, writtenDepth)
	for range writtenDepth {
		buffers <- make([]byte, writtenRequest)
	}
	done := make(chan *nbdclient.Call, writtenDepth)
	sent := 0
	wait := func(most int) error { // until at most so many are under way
		for ; sent > most; sent-- {
			call := <-done
			if call.Err != nil {
				return call.Err
			}
			buffers <- call.Request.Data
		}
		return nil
	}
	for range w.passes {
		for i := range w.mib {
			if err := wait(writtenDepth - 1); err != nil {
				return err
			}
			p := <-buffers
			random.Read(p)
			c.Start(nbdclient.Request{Command: nbdclient.Write, Offset: uint64(i) * writtenRequest, Data: p}, done)
			sent++
			if (i+1)%writtenFlush != 0 && i+1 != w.mib {
				continue
			}
			if err := wait(0); err != nil {
				return err
			}
			if err := c.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureBulk does all works on a disk and holds what written counts against the limit of
// its mode. written is called while a server that is to be measured is there and silent,
// and when it has ended.
func measureBulk(t *testing.T, mode string, written func(pid int) int64, serve ...string) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{2})
	for _, work := range bulkWorks {
		s := startServer(t, serve...)
		before := written(s.cmd.Process.Pid)
		c := connect(t, s.uri, nbdclient.Options{})
		if err := work.write(c, random); err != nil {
			t.Fatalf("%s: %v", work.name, err)
		}
		if err := c.Disconnect(); err != nil {
			t.Fatalf("%s: %v", work.name, err)
		}
		s.end(t)
		host := written(s.cmd.Process.Pid) - before
		s.reap(t)
		ratio := float64(host) / float64(work.bytes())
		t.Logf("%-14s %4d MiB from the client, %.4f times as much written", work.name, work.bytes()>>20, ratio)
		if ratio > mostWritten[mode] || ratio < 1 {
			t.Errorf("%s: %d bytes from the client, %d written: %.4f times as much, want 1 to %g", work.name, work.bytes(), host, ratio, mostWritten[mode])
		}
	}
}

// end stops a server, which stays in the process table: its counters can be read until
// reap.
func (s *server) end(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatalf("wait for the server's end: %v", err)
	}
}

func (s *server) reap(t *testing.T) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, s.stderr)
	}
}

// connect is a client of the server's default export.
func connect(t *testing.T, address string, options nbdclient.Options) *nbdclient.Client {
	t.Helper()
	uri, err := nbdclient.ParseURI(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := nbdclient.Connect(context.Background(), uri, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // it may be closed already
	return c
}

// TestBulkIsWrittenOnceToFiles: in every mode, with the journal beside and inside.
func TestBulkIsWrittenOnceToFiles(t *testing.T) {
	eachKind(t, func(t *testing.T, kind diskKind) {
		diskPath := filepath.Join(countedDir(t), "d.img")
		runJnbd(t, 0, append(kind.flags(), "create", diskPath, "--size", fmt.Sprint(writtenDisk))...)
		measureBulk(t, kind.mode, processWritten(t), diskPath)
	})
}

// countedDir is a directory of the test's own on a file system whose writes the kernel
// counts: a tmpfs has no medium.
func countedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return dir
	}
	dir, err := os.MkdirTemp("/var/tmp", "jnbd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// processWritten reads how many bytes a process has made dirty in the page cache.
func processWritten(t *testing.T) func(pid int) int64 {
	return func(pid int) int64 {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var n int64
			if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
				return n
			}
		}
		t.Fatalf("/proc/%d/io has no write_bytes: %s", pid, text)
		return 0
	}
}

// TestBulkIsWrittenOnceToDevices: the same on block devices, with the journal on the same
// one and on another. All of the disk is trimmed first, as mkfs does: nothing tells what of
// a device was ever written.
func TestBulkIsWrittenOnceToDevices(t *testing.T) {
	if !mayUseLoop() {
		t.Skip("this process may not make loop devices") // no installation gives a container that right
	}
	eachKind(t, func(t *testing.T, kind diskKind) {
		const journal = 64 << 20
		device, devices := newLoop(t, writtenDisk+journal+writtenDisk/2), []string{}
		flags := append(kind.flags(), "create", device, "--journal-size", fmt.Sprint(journal))
		serve := []string{device, "--unix", filepath.Join(t.TempDir(), "s")}
		if kind.internal {
			devices = []string{device}
		} else {
			other := newLoop(t, journal+writtenDisk/2)
			devices = []string{device, other}
			flags = append(flags, "--journal", other)
			serve = append(serve, "--journal", other)
		}
		runJnbd(t, 0, flags...)
		s := startServer(t, serve...)
		c := connect(t, s.uri, nbdclient.Options{})
		if err := c.Trim(0, c.Size(), nbdclient.FUA); err != nil {
			t.Fatal(err)
		}
		s.stop(t)
		written := func(int) (sum int64) {
			for _, d := range devices {
				sum += deviceWritten(t, d)
			}
			return sum
		}
		measureBulk(t, kind.mode, written, serve...)
	})
}

// newLoop is a block device of a sparse file, for the test.
func newLoop(t *testing.T, bytes int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(tool(t, "losetup", "-f", "--show", f.Name()))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v\n%s", device, err, out)
		}
	})
	return device
}

// deviceWritten reads how many bytes were ever written to a block device, once all that
// waits for it is there.
func deviceWritten(t *testing.T, device string) int64 {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	// Documentation/block/stat.rst: the seventh number is write sectors.
	var skip [6]int64
	var sectors int64
	if _, err := fmt.Sscan(string(text), &skip[0], &skip[1], &skip[2], &skip[3], &skip[4], &skip[5], &sectors); err != nil {
		t.Fatalf("%s: %q: %v", device, text, err)
	}
	return sectors * 512
}
