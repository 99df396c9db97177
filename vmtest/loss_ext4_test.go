package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"jnbd/vmtest/step"
	"jnbd/vmtest/workload"
	"jnbd/wal"
)

const (
	lossFiles    = 120 // operations of a workload on files
	lossRows     = 60  // transactions
	lossSeed     = 1
	ext4Bytes    = 64 << 20
	exitRepaired = 1 // e2fsck: faults were corrected
)

// TestPowerLossExt4: ext4 and ext2 in all the ways of journaling that they have. Whatever a
// power cut leaves, recovery must give a file system that is whole (with a journal of its own:
// not one fault once that is replayed; without: whole after a repair), in which every
// operation is there that had been acknowledged.
func TestPowerLossExt4(t *testing.T) {
	var cases []lossCase
	for _, of := range []struct {
		disk lossCase
		ways []string
	}{
		{lossCase{name: "ext4-ordered", options: "data=ordered"}, []string{"auto", "ordered", "data beside"}},
		{lossCase{name: "ext4-journal", options: "data=journal"}, []string{"auto beside", "data"}},
		{lossCase{name: "ext4-nojournal", mkfs: ext4("-O", "^has_journal")}, []string{"auto"}},
		{lossCase{name: "ext2", mkfs: ext4("-t", "ext2"), fs: "ext2"}, []string{"ordered"}},
	} {
		cases = append(cases, of.disk.everyWay(of.ways...)...)
	}
	for _, c := range cases {
		c.diskBytes = ext4Bytes
		if c.mkfs == nil {
			c.mkfs = ext4()
		}
		c.load = []string{"files", "-bulk", "-seed", fmt.Sprint(lossSeed), "-count", fmt.Sprint(lossFiles)}
		journaled := c.options != ""
		if !journaled {
			// Without a journal, fsync of a directory writes it and sends no flush (Linux 6.1).
			c.load = append(c.load, "-points", "1")
		}
		t.Run(c.String(), func(t *testing.T) {
			tp := recordLoss(t, c)
			plan := lossPlan{
				seed: 1, states: lossStates(t, 120), recover: wal.CutPrefix, realEvery: 60, stopAfter: 5,
				judge: func(image string, s *lossState) error { return judgeExtFiles(image, s, journaled) },
			}
			exploreHonest(t, c, tp, plan)
			catchLies(t, c, tp, plan)
		})
	}
}

// TestPowerLossSQLite: no committed transaction is missing, none is there in part, and the
// database is whole.
func TestPowerLossSQLite(t *testing.T) {
	c := lossCase{name: "sqlite", diskBytes: ext4Bytes, mkfs: ext4(), load: []string{"rows", "-count", fmt.Sprint(lossRows)}}
	for _, c := range c.everyWay("auto", "ordered beside") {
		t.Run(c.String(), func(t *testing.T) {
			tp := recordLoss(t, c)
			plan := lossPlan{seed: 1, states: lossStates(t, 120), recover: wal.CutPrefix, judge: judgeRows, realEvery: 60, stopAfter: 5}
			exploreHonest(t, c, tp, plan)
			catchLies(t, c, tp, plan)
		})
	}
}

// judgeExtFiles checks an ext4 or ext2 and the files in it. With journaled, its journal is
// replayed, which must leave not one fault; without, faults are repaired first.
func judgeExtFiles(image string, s *lossState, journaled bool) error {
	var err error
	if journaled {
		err = checkExt(image)
	} else {
		err = runChecker(exitRepaired, "e2fsck", "-fy", image)
	}
	if err != nil {
		return err
	}
	dumped, err := dumpExt(image, workload.Dirs...)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dumped)
	files, err := step.Walk(dumped)
	if err != nil {
		return err
	}
	return workload.CheckFiles(workload.Ops(lossSeed, lossFiles), s.done, byName(files), journaled)
}

// judgeRows checks an ext4 and the database in it.
func judgeRows(image string, s *lossState) error {
	if err := checkExt(image); err != nil {
		return err
	}
	dumped, err := dumpExt(image, "rows.db", "rows.db-wal")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dumped)
	db := filepath.Join(dumped, "rows.db")
	whole, err := hostOutput("sqlite3", db, "PRAGMA integrity_check;")
	if err != nil || strings.TrimSpace(whole) != "ok" {
		return fmt.Errorf("integrity_check: %w: %s", err, whole)
	}
	rows, err := hostOutput("sqlite3", db, workload.DumpRows)
	if err != nil {
		return err
	}
	return workload.CheckRows(s.done, rows)
}

// checkExt replays the journal of an ext4 and wants not one fault then. (Without the replay
// first, e2fsck -fn sees what the journal is there to mend.)
func checkExt(image string) error {
	if err := runChecker(exitRepaired, "e2fsck", "-E", "journal_only", "-p", image); err != nil {
		return err
	}
	return runChecker(0, "e2fsck", "-fn", image)
}

// dumpExt copies files and directories out of an ext4 to a new directory. What is not there is
// left out.
func dumpExt(image string, names ...string) (dir string, err error) {
	dir, err = os.MkdirTemp(filepath.Dir(image), "dumped-")
	if err != nil {
		return "", err
	}
	var commands strings.Builder
	for _, name := range names {
		if strings.Contains(name, ".") {
			fmt.Fprintf(&commands, "dump /%s %s\n", name, filepath.Join(dir, name))
		} else {
			fmt.Fprintf(&commands, "rdump /%s %s\n", name, dir)
		}
	}
	path, err := findProgram("debugfs")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, "-f", "-", image)
	cmd.Stdin = strings.NewReader(commands.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("debugfs %s: %w: %s", image, err, out), os.RemoveAll(dir))
	}
	return dir, nil
}

// runChecker runs a file system's checker, whose exit code must not be above most.
func runChecker(most int, name string, args ...string) error {
	out, err := hostOutput(name, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() <= most {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, out)
	}
	return nil
}

// hostOutput runs a program of the host and returns all that it printed.
func hostOutput(name string, args ...string) (string, error) {
	path, err := findProgram(name)
	if err != nil {
		return "", err
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}
