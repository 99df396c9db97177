package vmtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"jnbd/vmtest/step"
	"jnbd/vmtest/workload"
	"jnbd/wal"
)

// Only a mount replays the logs of xfs and of btrfs. So what recovery makes of states is kept,
// and a second machine mounts many of them, one after the other (mountJudge). Before it,
// btrfs's checker must find no fault: it never overwrites what is in use. After it, each file
// system's checker must find no fault, and every operation must be there that had been
// acknowledged.

// mountedLoad is what happens on such a file system.
var mountedLoad = []string{"files", "-bulk", "-seed", fmt.Sprint(lossSeed), "-count", fmt.Sprint(lossFiles)}

// TestPowerLossXFS: see above.
func TestPowerLossXFS(t *testing.T) {
	// xfsprogs makes none below 300 MiB.
	c := lossCase{name: "xfs", diskBytes: 320 << 20, fs: "xfs", mkfs: []string{"mkfs.xfs", "-q", "-f"}, load: mountedLoad}
	for _, c := range c.everyWay("auto") {
		t.Run(c.String(), func(t *testing.T) {
			mountLosses(t, c, nil, func(image string) error { return runChecker(0, "xfs_repair", "-n", "-f", image) })
		})
	}
}

// TestPowerLossBtrfs: see above.
func TestPowerLossBtrfs(t *testing.T) {
	check := func(image string) error { return runChecker(0, "btrfs", "check", "--readonly", image) }
	c := lossCase{name: "btrfs", diskBytes: 160 << 20, fs: "btrfs", mkfs: []string{"mkfs.btrfs", "-q", "-f"}, load: mountedLoad}
	for _, c := range c.everyWay("ordered beside") {
		t.Run(c.String(), func(t *testing.T) { mountLosses(t, c, check, check) })
	}
}

// mountLosses explores a case, with a mount for the verdict. before and after check the image
// without and with its log replayed; before may be nil.
func mountLosses(t *testing.T, c lossCase, before, after func(image string) error) {
	tp := recordLoss(t, c)
	plan := lossPlan{seed: 1, states: lossStates(t, mountsPerBoot), recover: wal.CutPrefix, realEvery: 20}
	report := exploreMounted(t, c, tp, plan, before, after)
	t.Log(report)
	for _, err := range report.failures {
		t.Error(err)
	}
	plan.lie, plan.realEvery, plan.states = noFlush, 0, 12
	report = exploreMounted(t, c, tp, plan, before, after)
	t.Logf("all flushes ignored: %d of %d states found bad", len(report.failures), report.states)
	if len(report.failures)*2 < report.states {
		t.Error("that is less than half")
	}
}

// mountsPerBoot is how many disks a machine has slots for, rounded down.
const mountsPerBoot = 20

// exploreMounted is explore with a mount of every state that got so far.
func exploreMounted(t *testing.T, c lossCase, tp *tape, plan lossPlan, before, after func(string) error) *lossReport {
	t.Helper()
	j := &mountJudge{t: t, disk: c, dir: scratch(t), before: before, after: after}
	plan.judge = j.keep
	report := explore(t, c, tp, plan)
	for part := range slices.Chunk(j.kept, mountsPerBoot) {
		report.failures = append(report.failures, j.judge(part)...)
	}
	return report
}

// mountJudge judges recovered disks by mounting them in a guest.
type mountJudge struct {
	t             *testing.T
	disk          lossCase
	dir           string
	before, after func(image string) error

	mu   sync.Mutex
	kept []keptState // guarded by mu
}

// keptState is a recovered disk that is to be mounted.
type keptState struct {
	*lossState
	image string
}

// keep takes the recovered disk of a state for later.
func (j *mountJudge) keep(image string, s *lossState) error {
	if j.before != nil {
		if err := j.before(image); err != nil {
			return err
		}
	}
	s.group = nil // its memory
	j.mu.Lock()
	defer j.mu.Unlock()
	kept := keptState{s, filepath.Join(j.dir, fmt.Sprintf("%d.img", len(j.kept)))}
	j.kept = append(j.kept, kept)
	return os.Rename(image, kept.image)
}

// judge mounts disks in a machine, and returns what is wrong with them.
func (j *mountJudge) judge(part []keptState) (failures []error) {
	j.t.Helper()
	var disks []string
	for _, s := range part {
		disks = append(disks, s.image)
	}
	g := bootWith(j.t, Config{Initramfs: theLossInitramfs(j.t), Disks: disks, Memory: 1024})
	g.do(step.Step{Do: step.Load, Path: "/modules/" + j.disk.fs})
	bad := make(map[int]error)
	for i, s := range part {
		files, err := j.mountAndRead(g, fmt.Sprintf("/dev/vd%c", 'a'+i))
		if err == nil {
			err = workload.CheckFiles(workload.Ops(lossSeed, lossFiles), s.done, files, true)
		}
		bad[i] = err
	}
	g.quit()
	for i, s := range part {
		err := bad[i]
		if err == nil {
			err = j.after(s.image)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", s, err))
		}
		if err := os.Remove(s.image); err != nil {
			j.t.Error(err)
		}
	}
	return failures
}

// mountAndRead mounts a device, which replays its log, and reads the workload's files.
func (j *mountJudge) mountAndRead(g *guest, device string) (map[string]step.File, error) {
	do := func(asked step.Step, onFile func(step.File)) error {
		_, err := g.m.Do(g.ctx, asked, onFile)
		return err
	}
	if err := do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt", Type: j.disk.fs, Options: j.disk.options}, nil); err != nil {
		return nil, err
	}
	files := make(map[string]step.File)
	err := do(step.Step{Do: step.ReadTree, Dir: "/mnt"}, func(f step.File) { files[f.Name] = f })
	maps.DeleteFunc(files, func(name string, _ step.File) bool {
		dir, _, _ := strings.Cut(name, "/")
		return !slices.Contains(workload.Dirs, dir)
	})
	return files, errors.Join(err, do(step.Step{Do: step.Unmount, Dir: "/mnt"}, nil))
}
