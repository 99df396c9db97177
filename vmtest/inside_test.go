package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// TestServerInTheGuest: jnbd runs in the guest, on a virtio disk that holds the journal too,
// and the same kernel attaches to it over a unix socket, by nbd-client and by jnbd attach. It is killed (SIGKILL) with the
// tree written and its log not brought home, and started again: a year earlier, by the clock, and
// after jnbd attach has begun to wait for it. What is on the virtio disk
// at the end is a plain image for the host. In every mode.
func TestServerInTheGuest(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { serveInTheGuest(t, mode) })
	}
}

func serveInTheGuest(t *testing.T, mode string) {
	const (
		socket = "/tmp/disk.sock"
		device = "/dev/vda"
		size   = 128 << 20 // create reads it all, and an emulated processor is slow at that
		whole  = 2 * size  // the rest is the journal: log, state and spare slots
	)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := makeSparse(disk, whole); err != nil {
		t.Fatal(err)
	}
	g := boot(t, disk)
	g.run("jnbd", "create", device, "--mode", mode, "--size", strconv.Itoa(size>>20)+"M", "--journal", "internal", "--journal-size", "64M")

	serve := step.Step{Do: step.Start, Args: []string{"jnbd", "serve", device, "--unix", socket}}
	server := g.do(serve)
	g.attach("/dev/nbd0", size, "-unix", socket)
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	want := writeTreeAndCheck(g, "/dev/nbd0")
	g.do(step.Step{Do: step.Stop, PID: server.PID, Signal: int(unix.SIGKILL)})
	g.detach("/dev/nbd0")

	const year = 365 * 24 * 60 * 60
	uri := "nbd+unix:///?socket=" + socket
	g.do(step.Step{Do: step.MoveClock, Seconds: -year})
	answer := g.do(step.Step{Do: step.Run, Args: []string{"jnbd", "attach", uri, "/dev/nbd1", "--wait", "100ms"}})
	if answer.Code != 1 || !strings.Contains(answer.Out, "no server after 100ms") {
		t.Errorf("attach without a server: exit code %d: %s", answer.Code, answer.Out)
	}
	attached := make(chan error, 1)
	go func() { // ends with the step
		_, err := g.m.Do(g.ctx, attachStep(uri, "/dev/nbd1", "--wait", "1m"), nil)
		attached <- err
	}()
	server = g.do(serve)
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	g.do(step.Step{Do: step.Mount, Device: "/dev/nbd1", Dir: "/mnt"})
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt/tree"}), want)
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	g.do(step.Step{Do: step.MoveClock, Seconds: year}) // a file system from the future has a fault
	readTreeAndCheck(g, "/dev/nbd1", want)
	if mode == "auto" {
		clockJumps(g, "/dev/nbd1", device)
	}
	g.run("jnbd", "detach", "/dev/nbd1")
	if end := g.do(step.Step{Do: step.Stop, PID: server.PID, Signal: int(unix.SIGTERM)}); end.Code != 0 {
		t.Fatalf("jnbd after SIGTERM: exit code %d: %s", end.Code, end.Out)
	}
	g.run("jnbd", "check", device)
	g.run("jnbd", "close", device)
	g.quit()
	mustHoldImage(t, disk, "/tree", want)
}

// clockJumps sets the clock back and forth under a mounted, writing ext4. No write fails, and what
// the log holds goes home as soon as it is quiet, although by the clock the last write is yet to
// come.
func clockJumps(g *guest, attached, device string) {
	g.t.Helper()
	const hour, year = 60 * 60, 365 * 24 * 60 * 60
	g.do(step.Step{Do: step.Mount, Device: attached, Dir: "/mnt"})
	jumps := map[int]int64{5: -hour, 10: year, 15: -year, 20: -hour}
	jumped := make(chan error, len(jumps))
	want := make(map[string]step.File)
	_, err := g.m.Do(g.ctx, step.Step{Do: step.WriteSynced, Dir: "/mnt/clock", Seed: 3, Files: 25}, func(f step.File) {
		want[f.Name] = f
		if seconds := jumps[len(want)]; seconds != 0 {
			go func() { // ends with the step
				_, err := g.m.Do(g.ctx, step.Step{Do: step.MoveClock, Seconds: seconds}, nil)
				jumped <- err
			}()
		}
	})
	for range jumps {
		err = errors.Join(err, <-jumped)
	}
	if err != nil {
		g.t.Fatalf("clock and writes: %v", err)
	}
	mustHold(g.t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt/clock"}), want)
	g.do(step.Step{Do: step.MoveClock, Dir: "/mnt", Seconds: -hour})
	home := regexp.MustCompile(`not home: +0 B in 0 extents`)
	g.await("the log to go home", func() bool { return home.MatchString(g.run("jnbd", "info", device)) })
	g.mustBeClean()
	g.fsck(attached)
}

// makeSparse makes a file of size bytes without a single block.
func makeSparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
