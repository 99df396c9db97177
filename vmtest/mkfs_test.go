package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// A file system on a disk of 1 TiB: the kernel first trims all of it, 4 GiB at a time, and
// then writes a little everywhere. A server that only keeps it in memory is as quick as it
// gets. The ext4 journal's gigabyte of zeros is left out: on an emulated processor it takes
// minutes, whatever the server (cmd/jnbd has it, over FUSE).

const (
	hugeSize   = 1 << 40
	mkfsRounds = 3
	// mkfsMost is how much longer it may take than on the memory server, at the median. On
	// an emulated processor two runs differ by a tenth.
	mkfsMost = 1.25
)

// TestHugeFileSystem: mkfs.ext4 on 1 TiB of each mode takes no longer than on nbdkit's memory
// plugin, round by round in one guest; and the file system is without a fault.
func TestHugeFileSystem(t *testing.T) {
	port := freePort(t)
	memory := serveMemory(t, port)
	ports := map[string]int{memory: port}
	names := []string{memory}
	for _, mode := range modes {
		ports[mode] = freePort(t)
		serve(t, filepath.Join(t.TempDir(), "disk.img"), hugeSize, ports[mode], "--mode", mode, "--log-level", "warn")
		names = append(names, mode)
	}
	g := boot(t)
	device := make(map[string]string)
	for i, name := range names {
		device[name] = fmt.Sprintf("/dev/nbd%d", i)
		g.run("nbd-client", "10.0.2.2", strconv.Itoa(ports[name]), device[name])
	}
	took := make(map[string][]time.Duration)
	for range mkfsRounds {
		for _, name := range names {
			began := time.Now()
			g.run("mkfs.ext4", "-q", "-F", "-E", "lazy_journal_init=1", device[name])
			took[name] = append(took[name], time.Since(began))
		}
	}
	reference := median(took[memory])
	for _, name := range names {
		ratio := float64(median(took[name])) / float64(reference)
		t.Logf("mkfs.ext4 on 1 TiB of %-7s median %s, %.2f of %s; all: %v", name, median(took[name]), ratio, memory, took[name])
		if ratio > mkfsMost {
			t.Errorf("mkfs.ext4 on 1 TiB of mode %s takes %.2f times as long as on %s, want at most %g", name, ratio, memory, mkfsMost)
		}
	}
	for _, name := range modes {
		g.do(step.Step{Do: step.Mount, Device: device[name], Dir: "/mnt"})
		g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
		g.detach(device[name])
	}
	g.detach(device[memory])
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// serveMemory serves hugeSize bytes of memory with nbdkit, for the test, and returns its name.
func serveMemory(t *testing.T, port int) (name string) {
	t.Helper()
	path, err := findProgram("nbdkit")
	if err != nil {
		if os.Getenv("JNBD_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command(path, "-f", "-i", "127.0.0.1", "-p", strconv.Itoa(port), "-P", pidFile, "memory", strconv.FormatInt(hugeSize, 10))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends with nbdkit, which the cleanup waits for
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(serverLife); ; {
		if _, err := os.Stat(pidFile); err == nil { // it is written when the port is open
			return "nbdkit memory"
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("nbdkit ended: %v", cmd.ProcessState)
		case <-timeout:
			t.Fatalf("nbdkit is not ready after %v", serverLife)
		}
	}
}
