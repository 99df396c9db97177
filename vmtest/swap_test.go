package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// TestSwapOnOwnDisk: a machine swaps to a disk that jnbd serves on the same machine, and writes
// to a file system on another one of the same server meanwhile. Memory and files are as they
// were written, and nobody has complained. Server and supervisors are what --swap makes them
// (trap 11). With JNBD_SWAP_ALL=1 in every mode, and more.
//
// One process is short of memory here, not the machine as a whole: that still hangs, see
// docs/operate.md.
func TestSwapOnOwnDisk(t *testing.T) {
	tried, used := []string{"auto"}, int64(40<<20)
	if os.Getenv("JNBD_SWAP_ALL") == "1" {
		tried, used = modes, 384<<20
	}
	for _, mode := range tried {
		t.Run(mode, func(t *testing.T) { swapOnOwnDisk(t, mode, used) })
	}
}

func swapOnOwnDisk(t *testing.T, mode string, used int64) {
	const limit = 24 << 20
	dir := t.TempDir()
	disks := []string{filepath.Join(dir, "swap.img"), filepath.Join(dir, "files.img")}
	for _, disk := range disks {
		if err := makeSparse(disk, 2<<30); err != nil {
			t.Fatal(err)
		}
	}
	g := boot(t, disks...)
	for device, size := range map[string]string{"/dev/vda": "512M", "/dev/vdb": "128M"} {
		g.run("jnbd", "create", device, "--mode", mode, "--size", size, "--journal", "internal", "--journal-size", "64M")
	}
	server := g.do(step.Step{Do: step.Start, Args: []string{
		"jnbd", "serve", "swap=/dev/vda", "files=/dev/vdb", "--unix", "/tmp/s", "--swap", "--log-format", "console",
	}})
	var supervisors []int
	for i, export := range []string{"swap", "files"} {
		supervisors = append(supervisors, g.jnbdAttach("nbd+unix:///"+export+"?socket=/tmp/s", fmt.Sprintf("/dev/nbd%d", i), "--swap"))
	}
	g.run("mkswap", "/dev/nbd0")
	g.run("swapon", "/dev/nbd0")
	g.run("mkfs.ext4", "-q", "/dev/nbd1")
	g.do(step.Step{Do: step.Mount, Device: "/dev/nbd1", Dir: "/mnt"})

	filled := make(chan error, 1)
	go func() { // ends with the step
		_, err := g.m.Do(g.ctx, step.Step{Do: step.UseMemory, Size: used, Limit: limit, Seed: 1}, nil)
		filled <- err
	}()
	want := g.files(step.Step{Do: step.WriteTree, Dir: "/mnt/tree", Seed: 1, Files: treeFiles / 3})
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	out, in := g.swapped()
	t.Logf("%d MiB went out to swap, %d MiB came in", out>>20, in>>20)
	// All but what the process may keep must have gone out once, and come in again.
	if out < used-limit || in < used-limit {
		t.Errorf("%d bytes went out to swap and %d came in, want at least %d", out, in, used-limit)
	}
	for _, pid := range append(supervisors, server.PID) {
		g.mustServeSwap(pid)
	}

	g.run("swapoff", "/dev/nbd0")
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	readTreeAndCheck(g, "/dev/nbd1", want)
	for line := range strings.Lines(g.kernelLog("")) {
		if suspicious.MatchString(line) || shortOfMemory.MatchString(line) {
			t.Errorf("the kernel says: %s", line)
		}
	}
	for _, supervisor := range supervisors {
		const done = "--swap: memory is locked, and every thread is an I/O flusher"
		if log := g.mustEnd(supervisor); !strings.Contains(log, done) || strings.Contains(log, "WRN") {
			t.Errorf("jnbd attach --swap says:\n%s", log)
		}
	}
	if end := g.do(step.Step{Do: step.Stop, PID: server.PID, Signal: int(unix.SIGTERM)}); end.Code != 0 || strings.Contains(end.Out, "WRN") {
		t.Errorf("jnbd after SIGTERM: exit code %d: %s", end.Code, end.Out)
	}
	g.run("jnbd", "check", "/dev/vda")
	g.run("jnbd", "check", "/dev/vdb")
}

// shortOfMemory are the words of what the kernel says when memory has run out.
var shortOfMemory = regexp.MustCompile(`memory|allocation failure|oom`)

// swapped is how many bytes have gone out to swap since the boot, and how many have come in.
func (g *guest) swapped() (out, in int64) {
	g.t.Helper()
	const pageSize = 4096
	counted := g.run("bash", "-c", `while read -r name n; do [[ $name != pswp* ]] || echo "$name $n"; done </proc/vmstat`)
	for line := range strings.Lines(counted) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			g.t.Fatalf("/proc/vmstat: %q: %v", line, err)
		}
		switch name {
		case "pswpout":
			out = n * pageSize
		case "pswpin":
			in = n * pageSize
		}
	}
	return out, in
}

// mustServeSwap fails the test unless the kernel says of a process that its memory is locked,
// that none of it is swapped out, and that all its threads are I/O flushers.
func (g *guest) mustServeSwap(pid int) {
	g.t.Helper()
	const none = "\t       0 kB"
	status := g.read(fmt.Sprintf("/proc/%d/status", pid))
	if !strings.Contains(status, "VmSwap:"+none) || strings.Contains(status, "VmLck:"+none) {
		g.t.Errorf("process %d is not locked in memory:\n%s", pid, status)
	}
	// The flags of a thread are the seventh field behind its name.
	flags := strings.Fields(g.run("bash", "-c", fmt.Sprintf(
		`for stat in /proc/%d/task/*/stat; do read -r line <"$stat"; set -- ${line##*) }; echo $7; done`, pid)))
	const flusher = 0x00080000 | 0x00100000 // PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE of linux/sched.h
	for _, text := range flags {
		if set, err := strconv.ParseUint(text, 10, 64); err != nil || set&flusher != flusher {
			g.t.Errorf("a thread of process %d has the flags %s (%#x), want those of an I/O flusher, %#x", pid, text, set, flusher)
		}
	}
	if len(flags) < 2 {
		g.t.Errorf("%d threads of process %d were seen", len(flags), pid)
	}
}
