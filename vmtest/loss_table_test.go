package vmtest

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"sync"
	"testing"

	"jnbd/vmtest/step"
	"jnbd/vmtest/workload"
	"jnbd/wal"
)

// What a file system without a journal gains from a journal below it: ext2 and ext4 without
// its own, on jnbd with --recover=barrier, and on qemu-nbd with the same disk, the same kernel
// and client, the same workload, the same kinds of cut. Both servers run in the guest, so that
// the same QEMU records both in the same way; qemu-nbd once as it is by default
// (--cache=writeback: the guest's page cache holds what was not flushed), once with
// --cache=none (each write goes to the disk at once, whose cache may lose and tear it).

var (
	errUnclean = errors.New("needs repair")
	errMissing = errors.New("what was durable is missing after repair")
)

// castagnoli is a checksum that processors are quick at.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tableRow is a line of the table.
type tableRow struct {
	load, fs, server string
	states           int
	different        int // of those, as recovered
	unclean          int // of those, need repair
	missing          int // of those, lack something acknowledged after it
}

// tableLoad is a workload: small files that come, change and go.
type tableLoad struct {
	name    string
	count   int // operations
	everySo int // operations, after which sync(2) and a flush of the disk make all durable; 0: fsync of each
}

// TestWithoutJournal prints the table. Where everything is made durable at once, hardly an image
// of jnbd's barriers may need repair, and on no server may anything durable be missing; and on
// qemu-nbd some must need it, or the comparison is none. Continuous integration has time for a
// few lines.
func TestWithoutJournal(t *testing.T) {
	var rows []tableRow
	for _, load := range []tableLoad{{"sync every 15 operations", 300, 15}, {"fsync of each file", 150, 0}} {
		for _, fs := range []struct {
			name string
			mkfs []string
		}{
			{"ext2", ext4("-t", "ext2")},
			{"ext4 without journal", ext4("-O", "^has_journal")},
		} {
			for _, c := range []lossCase{
				{name: "qemu-nbd --cache=writeback", plain: true, mode: "writeback"},
				{name: "qemu-nbd --cache=none", plain: true, mode: "none"},
				// Else a timer makes barriers in the midst of what a sync writes.
				{name: "jnbd", mode: "auto", serve: []string{"--commit-interval", "0"}},
			} {
				if !lossAll() && (fs.name != "ext2" || load.everySo == 0 || c.mode == "writeback") {
					continue
				}
				c.fs, c.mkfs, c.diskBytes = strings.Fields(fs.name)[0], fs.mkfs, ext4Bytes
				c.load = []string{"files", "-seed", fmt.Sprint(lossSeed), "-count", fmt.Sprint(load.count), "-points", fmt.Sprint(load.everySo)}
				t.Run(fmt.Sprintf("%s on %s, %s", fs.name, c.name, load.name), func(t *testing.T) {
					for _, row := range tableRows(t, c, load) {
						row.fs = fs.name
						rows = append(rows, row)
					}
				})
			}
		}
	}
	var table strings.Builder
	for _, r := range rows {
		missing := fmt.Sprint(r.missing)
		if strings.HasPrefix(r.load, "fsync") {
			missing = "–" // fsync promises less there: see lossCase
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %d | %d | %d | %s |\n", r.load, r.fs, r.server, r.states, r.different, r.unclean, missing)
	}
	t.Logf("\n| Made durable by | File system | Server | Images | Different | Need repair | Durable data missing after it |\n|---|---|---|---|---|---|---|\n%s", table.String())
}

// tableRows records a case once and looks at its states: of jnbd by both ways of recovery.
func tableRows(t *testing.T, c lossCase, load tableLoad) (rows []tableRow) {
	t.Helper()
	tp := recordLoss(t, c)
	cuts := []wal.Cut{wal.CutPrefix, wal.CutBarrier}
	if c.plain {
		cuts = cuts[:1]
	}
	for _, cut := range cuts {
		var mu sync.Mutex
		contents := make(map[uint32]bool) // by checksum; guarded by mu
		row := tableRow{load: load.name, server: c.name}
		if !c.plain {
			row.server = map[wal.Cut]string{wal.CutPrefix: "jnbd", wal.CutBarrier: "jnbd --recover=barrier"}[cut]
		}
		report := explore(t, c, tp, lossPlan{
			seed: 1, states: lossStates(t, 80), recover: cut, plain: c.plain,
			judge: func(image string, s *lossState) error {
				content, err := os.ReadFile(image)
				if err != nil {
					return err
				}
				sum := crc32.Checksum(content, castagnoli)
				mu.Lock()
				contents[sum] = true
				mu.Unlock()
				return judgeWithoutJournal(image, s, load)
			},
		})
		row.states, row.different = report.states, len(contents)
		for _, err := range report.failures {
			switch {
			case errors.Is(err, errMissing):
				row.missing++
				row.unclean++
			case errors.Is(err, errUnclean):
				row.unclean++
			default:
				t.Error(err)
			}
			if load.everySo > 0 && (errors.Is(err, errMissing) || cut == wal.CutBarrier) {
				t.Logf("%s: %v", row.server, err)
			}
		}
		if load.everySo > 0 && row.missing > 0 {
			t.Errorf("%s: durable data is missing from %d images", row.server, row.missing)
		}
		// A machine that stalls for seconds while a sync writes may see an idle checkpoint, and
		// its barrier, right there; of 20 points that is one.
		if load.everySo > 0 && cut == wal.CutBarrier && row.unclean*10 > row.states {
			t.Errorf("%s: %d of %d images need repair", row.server, row.unclean, row.states)
		}
		if c.plain && row.unclean == 0 {
			t.Errorf("%s: not one of %d images needs repair: there is nothing to gain", row.server, row.states)
		}
		rows = append(rows, row)
	}
	return rows
}

// judgeWithoutJournal says whether an image needs repair, and whether all that was durable is
// there once it is repaired.
func judgeWithoutJournal(image string, s *lossState, load tableLoad) error {
	clean := runChecker(0, "e2fsck", "-fn", image)
	if err := runChecker(exitRepaired, "e2fsck", "-fy", image); err != nil {
		return fmt.Errorf("%w: not even after repair: %w", errMissing, err)
	}
	dumped, err := dumpExt(image, workload.Dirs...)
	if err != nil {
		return fmt.Errorf("%w: %w", errMissing, err)
	}
	defer os.RemoveAll(dumped)
	files, err := step.Walk(dumped)
	if err != nil {
		return err
	}
	if load.everySo > 0 {
		if err := workload.CheckDurable(workload.Ops(lossSeed, load.count), s.done, load.everySo, byName(files)); err != nil {
			return fmt.Errorf("%w: %w", errMissing, err)
		}
	}
	if clean != nil {
		return fmt.Errorf("%w: %w", errUnclean, clean)
	}
	return nil
}
