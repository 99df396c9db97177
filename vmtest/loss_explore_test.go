package vmtest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/wal"
)

// lossState is what a power cut may have left: the image that seed image makes of a cut.
type lossState struct {
	cut      int
	image    int64
	done     int   // operations that were acknowledged before the cut
	answered int64 // stamp of the last answer before it
	where    string
	group    *crashdisk.Group
	real     *crashdisk.Group // the same state again, for the real binary; nil for most
}

func (s *lossState) String() string {
	return fmt.Sprintf("state %d:%d (%s, %d operations acknowledged)", s.cut, s.image, s.where, s.done)
}

// lossPlan says which states to look at, and how.
type lossPlan struct {
	seed   uint64
	states int // about; fewer where there are fewer cuts
	lie    lie
	// recover is where recovery cuts the log.
	recover wal.Cut
	// judge says what is wrong with a recovered disk. It may change the file.
	judge func(image string, s *lossState) error
	// realEvery is how many states there are for each that the real binary looks at as well;
	// 0: none.
	realEvery int
	// plain says that there is no jnbd on the disk: the state itself is what is judged.
	plain bool
	// stopAfter is how many failures end the exploration; 0: never.
	stopAfter int
}

// lossReport is what an exploration found.
type lossReport struct {
	events, flushes, states, real int
	failures                      []error
	took                          time.Duration
}

func (r *lossReport) String() string {
	return fmt.Sprintf("%d operations, %d flushes; %d states, %d also by the real binary, %d failures; %.1fs, %.0f states a minute",
		r.events, r.flushes, r.states, r.real, len(r.failures), r.took.Seconds(), float64(r.states)/r.took.Minutes())
}

// lossStates is how many states a test looks at: JNBD_LOSS_STATES, or ours.
func lossStates(t *testing.T, ours int) int {
	t.Helper()
	text := os.Getenv("JNBD_LOSS_STATES")
	if text == "" {
		return ours
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("JNBD_LOSS_STATES is %q, want a number of states", text)
	}
	return n
}

// chosenCut is a state that is to be made.
type chosenCut struct {
	cut   int
	image int64
}

// chooseCuts lists states in the order of their cuts. Half of them are just before a flush,
// when the most is unflushed: with all of that lost, and once more by chance. The others are
// anywhere: all lost, nothing lost, and by chance.
func (t *tape) chooseCuts(seed uint64, states int) (list []chosenCut) {
	random := rand.New(rand.NewPCG(seed, 7))
	byChance := func() int64 { return crashdisk.SeedLost + 1 + random.Int64N(1<<20) }
	var flushes []int
	for k := t.begin + 1; k < len(t.events); k++ {
		if t.events[k].flush && !t.events[k-1].flush {
			flushes = append(flushes, k)
		}
	}
	random.Shuffle(len(flushes), func(i, k int) { flushes[i], flushes[k] = flushes[k], flushes[i] })
	for _, cut := range flushes[:min(len(flushes), (states+3)/4)] {
		list = append(list, chosenCut{cut, crashdisk.SeedLost}, chosenCut{cut, byChance()})
	}
	for i := len(list); i < states; i++ {
		image := [...]int64{crashdisk.SeedLost, crashdisk.SeedKill, byChance(), byChance()}[i%4]
		list = append(list, chosenCut{t.begin + 1 + random.IntN(len(t.events)-t.begin), image})
	}
	slices.SortFunc(list, func(a, b chosenCut) int { return cmp.Or(a.cut-b.cut, cmp.Compare(a.image, b.image)) })
	return slices.Compact(list)
}

// exploration is one under way.
type lossExploration struct {
	tape *tape
	disk lossCase
	plan lossPlan
	jnbd string
	jobs chan *lossState

	mu     sync.Mutex
	report lossReport // guarded by mu
}

// explore looks at states of a tape. What is wrong with them is in the report.
func explore(t *testing.T, c lossCase, tp *tape, plan lossPlan) *lossReport {
	t.Helper()
	began := time.Now()
	x := &lossExploration{tape: tp, disk: c, plan: plan, jnbd: theWorld(t).jnbd, jobs: make(chan *lossState)}
	for _, e := range tp.events[tp.begin:] {
		x.report.events++
		if e.flush {
			x.report.flushes++
		}
	}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() { x.work(scratch(t)) }) // ends when jobs is closed
	}
	err := x.produce()
	close(x.jobs)
	workers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	x.report.took = time.Since(began)
	return &x.report
}

// scratch is a directory for images, in memory where the host has room for them.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "jnbd-vmtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// produce plays the tape and makes the images of every chosen cut.
func (x *lossExploration) produce() error {
	p := newPlayer(x.tape, x.plan.lie)
	for i, chosen := range x.tape.chooseCuts(x.plan.seed, x.plan.states) {
		if err := p.to(chosen.cut); err != nil {
			return err
		}
		if x.enough() {
			return nil
		}
		s := &lossState{
			cut: chosen.cut, image: chosen.image, done: p.done, answered: p.answered,
			where: fmt.Sprintf("before %s, %d unflushed", x.describe(chosen.cut), p.unflushed),
			group: p.group.Image(chosen.image),
		}
		if x.plan.realEvery > 0 && i%x.plan.realEvery == 0 {
			s.real = p.group.Image(chosen.image)
		}
		x.jobs <- s
	}
	return nil
}

func (x *lossExploration) describe(k int) string {
	if k == len(x.tape.events) {
		return "the end"
	}
	switch e := x.tape.events[k]; {
	case e.mark != nil:
		return fmt.Sprintf("mark %d", e.mark.Seq)
	case e.flush:
		return "a flush"
	default:
		return fmt.Sprintf("a write to disk %d [%#x,+%d)", e.disk, e.off, e.n)
	}
}

// enough reports whether to stop.
func (x *lossExploration) enough() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.plan.stopAfter > 0 && len(x.report.failures) >= x.plan.stopAfter
}

// work looks at states until there are no more.
func (x *lossExploration) work(dir string) {
	image := filepath.Join(dir, "recovered.img")
	for s := range x.jobs {
		err := x.examine(s, dir, image)
		x.mu.Lock()
		x.report.states++
		if s.real != nil {
			x.report.real++
		}
		if err != nil {
			x.report.failures = append(x.report.failures, fmt.Errorf("%s: %w", s, err))
		}
		x.mu.Unlock()
	}
}

// keep writes a bad state into the directory JNBD_LOSS_KEEP, for a closer look: the recorded
// disk as the power cut left it, and what recovery made of it.
func (x *lossExploration) keep(s *lossState, failed error) error {
	dir := os.Getenv("JNBD_LOSS_KEEP")
	if dir == "" || failed == nil || x.plan.lie != honest {
		return nil
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%d-%d", x.disk, s.cut, s.image))
	p := newPlayer(x.tape, x.plan.lie)
	if err := p.to(s.cut); err != nil {
		return err
	}
	state := p.group.Image(s.image)
	for i := range x.tape.disks {
		d := state.Lookup(fmt.Sprintf("disk%d", i))
		if err := copyDisk(d, d.Size(), fmt.Sprintf("%s.disk%d", path, i)); err != nil {
			return err
		}
	}
	if x.plan.plain {
		return nil
	}
	return recoverTo(x.disk, state, x.plan.recover, path+".recovered")
}

// examine recovers a state into image, and judges it.
func (x *lossExploration) examine(s *lossState, dir, image string) (err error) {
	defer func() { err = errors.Join(err, x.keep(s, err), os.RemoveAll(image)) }()
	if x.plan.plain {
		if err := copyDisk(s.group.Lookup("disk0"), x.disk.diskBytes, image); err != nil {
			return err
		}
		return x.plan.judge(image, s)
	}
	if err := recoverTo(x.disk, s.group, x.plan.recover, image); err != nil {
		return err
	}
	if s.real != nil {
		if err := byRealBinary(x.jnbd, x.disk, s.real, dir, image); err != nil {
			return fmt.Errorf("by the real binary: %w", err)
		}
	}
	return x.plan.judge(image, s)
}
