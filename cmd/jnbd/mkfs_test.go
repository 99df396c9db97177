package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

const (
	mkfsRounds = 5
	// mkfsMost is how long a file system may take on jnbd, at the median, by how long it takes
	// on a server that only keeps it in memory.
	mkfsMost = 1.0
)

// TestHugeFileSystem: mkfs.ext4 on a disk of 1 TiB of each mode, seen as a file by nbdfuse,
// takes no longer than on nbdkit's memory plugin; round by round.
func TestHugeFileSystem(t *testing.T) {
	requireTools(t, "nbdfuse", "nbdkit", "mkfs.ext4", "umount")
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip(err) // no installation gives a container that right
	} else {
		f.Close()
	}
	const memory = "nbdkit memory"
	dir := t.TempDir()
	socket := filepath.Join(dir, "memory.sock")
	startTool(t, "nbdkit", "-f", "-U", socket, "memory", fmt.Sprint(hugeDisk))
	uris := map[string]string{memory: "nbd+unix:///?socket=" + socket}
	names := []string{memory}
	for _, mode := range []string{"data", "ordered", "auto"} {
		uris[mode] = startServer(t, "--mode", mode, filepath.Join(dir, mode+".img"), "--size", fmt.Sprint(hugeDisk)).uri
		names = append(names, mode)
	}
	waitFor(t, socket)

	took := map[string][]time.Duration{}
	for range mkfsRounds {
		for _, name := range names {
			last := len(took[name]) == mkfsRounds-1
			took[name] = append(took[name], mkfsOverFUSE(t, uris[name], last && name != memory))
		}
	}
	median := func(name string) time.Duration { return slices.Sorted(slices.Values(took[name]))[mkfsRounds/2] }
	for _, name := range names {
		ratio := float64(median(name)) / float64(median(memory))
		t.Logf("mkfs.ext4 on 1 TiB of %-13s median %s, %.2f of %s; all: %v", name, median(name), ratio, memory, took[name])
		if ratio > mkfsMost {
			t.Errorf("mkfs.ext4 on 1 TiB of mode %s takes %.2f times as long as on %s, want at most %g", name, ratio, memory, mkfsMost)
		}
	}
}

// mkfsOverFUSE makes a file system on an export, and checks it if told to. It returns how long the
// making took.
func mkfsOverFUSE(t *testing.T, uri string, check bool) time.Duration {
	t.Helper()
	dir := t.TempDir()
	disk, pidFile := filepath.Join(dir, "disk"), filepath.Join(t.TempDir(), "pid")
	ended := startTool(t, "nbdfuse", "-P", pidFile, disk, uri)
	waitFor(t, pidFile)
	began := time.Now()
	_, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput()
	took := time.Since(began)
	if err == nil && check {
		_, err = exec.Command("e2fsck", "-fn", disk).CombinedOutput()
	}
	if out, umountErr := exec.Command("umount", dir).CombinedOutput(); umountErr != nil {
		err = errors.Join(err, fmt.Errorf("umount: %w: %s", umountErr, out))
	}
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// startTool starts a program, which ends with the test at the latest. The channel tells its end.
func startTool(t *testing.T, name string, args ...string) (ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { // ends with the program
		_ = cmd.Wait()
		close(over)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-over
	})
	return over
}

// waitFor waits until a file is there.
func waitFor(t *testing.T, path string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		} else if !errors.Is(err, fs.ErrNotExist) || time.Since(began) > startTimeout {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
