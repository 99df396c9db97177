package vmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// lossCase is a disk in a guest, what lies on it, and what happens to it until its power goes.
type lossCase struct {
	name      string
	mode      string // of the disk
	beside    bool   // the journal on a partition of its own
	plain     bool   // no jnbd: qemu-nbd, with its cache mode in mode
	diskBytes int64
	mkfs      []string // program and arguments, without the device; nil: no file system
	fs        string   // what to mount it as
	options   string   // of the mount
	serve     []string // more arguments for jnbd serve
	load      []string // workload and arguments
}

// The partitions of the recorded disk.
const (
	lossJournalBytes = 64 << 20 // superblock and log
	lossMarksBytes   = 16 << 20
	// lossStateBytes is room for the stored state of the write-once side.
	lossStateBytes = 8 << 20
)

// lossAll reports whether tests try everything, not what continuous integration has time for.
func lossAll() bool { return os.Getenv("JNBD_LOSS_ALL") == "1" }

// everyWay is a case in the modes and places that are named, like "auto" and "data beside";
// with JNBD_LOSS_ALL=1 in all of them.
func (c lossCase) everyWay(ways ...string) (cases []lossCase) {
	if lossAll() {
		ways = []string{"data", "ordered", "auto", "data beside", "ordered beside", "auto beside"}
	}
	for _, way := range ways {
		mode, place, _ := strings.Cut(way, " ")
		c.mode, c.beside = mode, place == "beside"
		cases = append(cases, c)
	}
	return cases
}

// lossInitramfs builds the initramfs of these tests once: more programs than others need.
var lossInitramfs = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := buildOnce()
	if err != nil {
		return "", err
	}
	for _, name := range []string{"xfs_repair", "btrfs", "sqlite3"} { // for the verdicts
		if _, err := findProgram(name); err != nil {
			return "", err
		}
	}
	programs, err := HostPrograms("nbd-client", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "sqlite3", "qemu-nbd")
	if err != nil {
		return "", err
	}
	load := filepath.Join(worldDir, "load")
	if err := goBuild(ctx, load, "jnbd/vmtest/load"); err != nil {
		return "", err
	}
	programs = append(programs, Program{"jnbd", w.jnbd}, Program{"load", load})
	path := filepath.Join(worldDir, "initramfs-loss")
	archive, err := os.Create(path)
	if err != nil {
		return "", err
	}
	init := filepath.Join(worldDir, "init")
	return path, errors.Join(BuildInitramfs(archive, w.kernel, init, programs, "xfs", "btrfs"), archive.Close())
})

// theLossInitramfs returns its path. What the host lacks is as for theWorld.
func theLossInitramfs(t *testing.T) string {
	t.Helper()
	theWorld(t)
	path, err := lossInitramfs()
	switch {
	case errors.Is(err, ErrUnavailable) && os.Getenv("JNBD_REQUIRE") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	return path
}

// spareBytes is how much room the mode's spare slots take by default.
func (c lossCase) spareBytes() int64 {
	switch c.mode {
	case "ordered":
		return c.diskBytes
	case "auto":
		return c.diskBytes / 4
	}
	return 0
}

// recordLoss runs a case in a guest and returns the tape of its disk. Nothing is lost while it
// runs: what a power cut would have lost is decided later, from the tape.
func recordLoss(t *testing.T, c lossCase) *tape {
	t.Helper()
	dir := scratch(t)
	recorded := &RecordedDisk{Path: filepath.Join(dir, "disk"), Log: filepath.Join(dir, "log")}
	backing, journal := c.diskBytes, lossJournalBytes+lossStateBytes+c.spareBytes()
	switch {
	case c.plain:
		journal = partitionLine
	case !c.beside:
		backing, journal = backing+journal, partitionLine
	}
	partitions, err := CreatePartitioned(recorded.Path, backing, journal, lossMarksBytes)
	if err == nil {
		err = os.WriteFile(recorded.Log, nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := bootWith(t, Config{Initramfs: theLossInitramfs(t), Recorded: recorded, Memory: 1024})
	c.run(g)
	g.quit()
	if t.Failed() {
		t.FailNow()
	}
	tp, err := readTape(recorded.Log, partitions[:2], partitions[2])
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// run is what happens in the guest.
func (c lossCase) run(g *guest) {
	g.t.Helper()
	const socket, device, marks = "/tmp/disk.sock", "/dev/nbd0", "/dev/vda3"
	if c.plain {
		g.run("qemu-nbd", "--fork", "--persistent", "--format=raw", "--cache="+c.mode, "--discard=unmap", "--socket="+socket, "/dev/vda1")
	} else {
		journal := "internal"
		if c.beside {
			journal = "/dev/vda2"
		}
		g.run("jnbd", "create", "/dev/vda1", "--size", strconv.FormatInt(c.diskBytes>>20, 10)+"M", "--mode", c.mode,
			"--journal-size", strconv.Itoa(lossJournalBytes>>20)+"M", "--journal", journal)
		serve := append([]string{"jnbd", "serve", "/dev/vda1", "--journal", journal, "--unix", socket}, c.serve...)
		g.do(step.Step{Do: step.Start, Args: serve})
	}
	g.run("nbd-client", "-unix", socket, device)
	load := append([]string{"load"}, c.load...)
	load = append(load, "-marks", marks, "-device", device)
	if c.mkfs != nil {
		if c.fs == "xfs" || c.fs == "btrfs" {
			g.do(step.Step{Do: step.Load, Path: "/modules/" + c.fs})
		}
		g.run(append(c.mkfs, device)...)
		g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt", Type: c.fs, Options: c.options})
		load = append(load, "-dir", "/mnt")
	}
	g.run(load...)
}

// ext4 is how an ext4 is made: small, and with nothing left to do in the background.
func ext4(more ...string) []string {
	return append([]string{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, more...)
}

// String names the case as its subtest.
func (c lossCase) String() string {
	parts := []string{c.name, c.mode}
	if c.beside {
		parts = append(parts, "beside")
	}
	return strings.Join(parts, "-")
}
