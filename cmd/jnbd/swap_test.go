package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// procStatus is a line of /proc/PID/status, without its name.
func procStatus(t *testing.T, pid int, name string) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("/proc/%d/status says nothing of %s:\n%s", pid, name, content)
	return ""
}

// procKilobytes is procStatus of an amount of memory.
func procKilobytes(t *testing.T, pid int, name string) int64 {
	t.Helper()
	kilobytes, err := strconv.ParseInt(strings.TrimSuffix(procStatus(t, pid, name), " kB"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes
}

// pfMemallocNoIO is PF_MEMALLOC_NOIO of the kernel's linux/sched.h: half of what an I/O flusher is.
const pfMemallocNoIO = 0x00080000

// flushers counts a process's threads, and those of them that are I/O flushers.
func flushers(t *testing.T, pid int) (threads, flushing int) {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest) // from the third on; flags are the ninth
		flags, err := strconv.ParseUint(fields[6], 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		threads++
		if flags&pfMemallocNoIO != 0 {
			flushing++
		}
	}
	return threads, flushing
}

// With --swap all memory is locked, and all threads are I/O flushers, also those that
// come later.
func TestSwap(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("JNBD_REQUIRE") == "1" {
			t.Fatal("not root, and JNBD_REQUIRE=1 forbids to skip")
		}
		t.Skip("needs root")
	}
	s := startServer(t, filepath.Join(t.TempDir(), "d.img"), "--size", "64M", "--journal-size", "64M", "--swap")
	for i := range 8 { // clients make threads
		c := mustDial(t, s.uri)
		if err := c.write(uint64(i)<<20, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
	}
	pid := s.cmd.Process.Pid
	if locked := procStatus(t, pid, "VmLck"); strings.HasPrefix(locked, "0 ") {
		t.Errorf("%s of memory are locked", locked)
	}
	if swapped := procStatus(t, pid, "VmSwap"); swapped != "0 kB" {
		t.Errorf("%s are swapped out", swapped)
	}
	const capSysResource = 24 // containers' root often lacks it
	allowed, err := hasCapability(capSysResource)
	if err != nil {
		t.Fatal(err)
	}
	if threads, flushing := flushers(t, pid); threads < 2 || allowed != (flushing == threads) {
		t.Errorf("%d of %d threads are I/O flushers; allowed: %v", flushing, threads, allowed)
	}
	s.stop(t)
	log := s.stderr.String()
	if strings.Contains(log, "can't be locked") || allowed == strings.Contains(log, "CAP_SYS_RESOURCE") {
		t.Errorf("I/O flushers are allowed: %v; the log says:\n%s", allowed, log)
	}
}

// Where that is not allowed, the log says what is missing, and the disk is served.
func TestSwapNotAllowed(t *testing.T) {
	requireTools(t, "setpriv", "prlimit")
	dir := t.TempDir()
	// Without any capability, and a limit as users have it.
	cmd := exec.Command("prlimit", "--memlock=65536:65536", "setpriv", "--inh-caps=-all", "--bounding-set=-all",
		realBinary(t), "serve", filepath.Join(dir, "d.img"), "--size", "8M", "--journal-size", "64M", "--swap", "--run", "true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	for _, want := range []string{"at most 65536 bytes may be locked", "LimitMEMLOCK=infinity", "CAP_SYS_RESOURCE"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the log does not speak of %q:\n%s", want, out)
		}
	}
}
