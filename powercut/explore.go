package powercut

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/wal"
)

// State names a state of a recording: the image that seed Image makes of cut Cut.
type State struct {
	Cut   int
	Image int64
}

func (s State) String() string { return fmt.Sprintf("%d:%d", s.Cut, s.Image) }

// ParseState reads what String writes.
func ParseState(text string) (s State, err error) {
	if _, err := fmt.Sscanf(text, "%d:%d", &s.Cut, &s.Image); err != nil || s.String() != text || s.Cut < 0 {
		return State{}, fmt.Errorf("state %q: want CUT:IMAGE, like 1234:5", text)
	}
	return s, nil
}

// Plan says what to explore.
type Plan struct {
	// Seed chooses cuts and images.
	Seed uint64
	// States is how many states to look at, about. Those just before and just after every
	// flush are always among them, however many they are.
	States int
	// Only, if not nil, is the one state to look at.
	Only *State
	// Jnbd is the binary for the states that it looks at too; empty: none.
	Jnbd string
	// RealEvery is how many states there are for each of those. Default 50.
	RealEvery int
	// Lie is what flushes are made to do.
	Lie Lie
	// MostFailures ends the exploration. Default 10; negative: never.
	MostFailures int
	// Workers look at states at the same time. Default: one for each core.
	Workers int
}

// Failure is a state that broke a promise.
type Failure struct {
	State State
	Where string // what had just happened, and what was about to
	Err   error
}

func (f Failure) String() string { return fmt.Sprintf("state %s (%s): %v", f.State, f.Where, f.Err) }

// Report is what an exploration found.
type Report struct {
	Events, Flushes int // of the recording, after creation
	Requests        int
	States          int // looked at
	AtFlush         int // of those, just after a flush
	Between         int // of those, at other times
	Real            int // of those, also by the real binary
	Promised        int // of those, with anything at all to lose
	Failures        []Failure
	Took            time.Duration
}

func (r *Report) String() string {
	perMinute := 0.0
	if r.Took > 0 {
		perMinute = float64(r.States) / r.Took.Minutes()
	}
	return fmt.Sprintf("%d requests, %d operations, %d flushes; %d states (%d just after a flush, %d at other times), %d also by the real binary, %d failures; %.1fs, %.0f states a minute",
		r.Requests, r.Events, r.Flushes, r.States, r.AtFlush, r.Between, r.Real, len(r.Failures), r.Took.Seconds(), perMinute)
}

// imagesBetween is how many images are made of a cut between flushes.
const imagesBetween = 4

// job is a state to be looked at.
type job struct {
	state   State
	where   string
	crash   crash
	image   *crashdisk.Group
	finish  bool             // bring it home at the end
	barrier *crashdisk.Group // the same state again, for --recover=barrier; may be nil
	real    *crashdisk.Group // the same state again, for the real binary; may be nil
}

// exploration is one under way.
type exploration struct {
	rec   *Recording
	plan  Plan
	judge *judge
	jobs  chan job

	mu     sync.Mutex
	report Report // guarded by mu
	broken error  // guarded by mu; a mistake of the gate itself
}

// Explore rebuilds states of a recording and looks at each. The error is the gate's own;
// what is wrong with states is in the report.
func Explore(rec *Recording, plan Plan) (*Report, error) {
	began := time.Now()
	set(&plan.RealEvery, 50)
	set(&plan.MostFailures, 10)
	set(&plan.Workers, runtime.GOMAXPROCS(0))
	j, err := newJudge(rec.Requests, rec.DiskBytes)
	if err != nil {
		return nil, err
	}
	x := &exploration{rec: rec, plan: plan, judge: j, jobs: make(chan job)}
	x.report.Requests = len(rec.Requests)
	for i := range rec.Events {
		if e := &rec.Events[i]; e.Begin > rec.Created {
			x.report.Events++
			if e.Kind == EventFlush {
				x.report.Flushes++
			}
		}
	}
	var workers sync.WaitGroup
	for range plan.Workers {
		workers.Go(x.work) // ends when jobs is closed
	}
	err = x.produce()
	close(x.jobs)
	workers.Wait()
	slices.SortFunc(x.report.Failures, func(a, b Failure) int { return a.State.Cut - b.State.Cut })
	x.report.Took = time.Since(began)
	return &x.report, errors.Join(err, x.broken)
}

// produce plays the recording and makes the images of every chosen cut.
func (x *exploration) produce() error {
	r := newReplay(x.rec, x.plan.Lie)
	defer r.end()
	var chosen []State
	if x.plan.Only != nil {
		chosen = []State{*x.plan.Only}
	} else {
		chosen = x.choose(r)
	}
	for i, state := range chosen {
		if x.enough() {
			return nil
		}
		if err := r.reach(state); err != nil {
			return err
		}
		if r.unflushed() == 0 && state.Image > crashdisk.SeedLost && x.plan.Only == nil {
			continue // as good as lost: the images are all alike
		}
		x.jobs <- x.job(r, i, state)
	}
	return nil
}

// job makes the images of a state.
func (x *exploration) job(r *replay, i int, state State) job {
	stamp := int64(math.MaxInt64)
	before, next := "the beginning", "the end"
	if state.Cut < len(r.moments) {
		stamp, next = r.moments[state.Cut].stamp, x.describe(r.moments[state.Cut])
	}
	if state.Cut > 0 {
		before = x.describe(r.moments[state.Cut-1])
	}
	made := job{
		state: state,
		where: fmt.Sprintf("after %s, before %s, %d unflushed", before, next, r.unflushed()),
		crash: crash{at: stamp, processOnly: state.Image == crashdisk.SeedKill},
		image: r.group.Image(state.Image),
	}
	made.finish = i%4 == 1 || x.plan.Only != nil
	if i%4 == 3 || x.plan.Only != nil {
		made.barrier = r.group.Image(state.Image)
	}
	if x.plan.Jnbd != "" && stamp > x.rec.Created && (i%x.plan.RealEvery == 0 || x.plan.Only != nil) {
		made.real = r.group.Image(state.Image)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.report.States++
	if x.afterFlush(r.moments, state.Cut) {
		x.report.AtFlush++
	} else {
		x.report.Between++
	}
	if made.real != nil {
		x.report.Real++
	}
	return made
}

func (x *exploration) describe(m moment) string {
	if m.end {
		return "the return of " + x.rec.Events[m.event].String()
	}
	return "the call of " + x.rec.Events[m.event].String()
}

// afterFlush reports whether a cut is as of a flush: one has just returned.
func (x *exploration) afterFlush(moments []moment, cut int) bool {
	return cut > 0 && moments[cut-1].end && x.rec.Events[moments[cut-1].event].Kind == EventFlush
}

// beforeReturn reports whether a cut is the last instant of a flush.
func (x *exploration) beforeReturn(moments []moment, cut int) bool {
	return cut < len(moments) && moments[cut].end && x.rec.Events[moments[cut].event].Kind == EventFlush
}

// choose lists states in the order of their cuts. Each flush gives two cuts: just after it
// returned, and just before, when the most is unflushed and the most was answered since the
// flush before it. Each with all that is unflushed lost, and once by chance. Then cuts by
// chance.
func (x *exploration) choose(r *replay) []State {
	random := rand.New(rand.NewPCG(x.plan.Seed, 7))
	seed := func() int64 { return crashdisk.SeedLost + 1 + random.Int64N(1<<20) }
	var list []State
	var others []int
	creation := 0
	for cut := range len(r.moments) + 1 {
		switch {
		case cut < len(r.moments) && r.moments[cut].stamp < x.rec.Created:
			creation = cut
		case x.afterFlush(r.moments, cut):
			list = append(list, State{cut, crashdisk.SeedLost}, State{cut, seed()})
		case x.beforeReturn(r.moments, cut):
			list = append(list, State{cut, crashdisk.SeedLost}, State{cut, seed()})
		default:
			others = append(others, cut)
		}
	}
	for range 6 { // while the disk was being made
		if x.rec.Copied {
			break
		}
		list = append(list, State{random.IntN(creation + 1), seed()})
	}
	random.Shuffle(len(others), func(i, k int) { others[i], others[k] = others[k], others[i] })
	for _, cut := range others {
		if len(list) >= x.plan.States {
			break
		}
		images := []int64{crashdisk.SeedLost, crashdisk.SeedKill, seed(), seed()}
		for _, image := range images[:imagesBetween] {
			list = append(list, State{cut, image})
		}
	}
	slices.SortStableFunc(list, func(a, b State) int { return a.Cut - b.Cut })
	return list
}

// enough reports whether to stop.
func (x *exploration) enough() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.broken != nil || x.plan.MostFailures > 0 && len(x.report.Failures) >= x.plan.MostFailures
}

// work looks at states until there are no more.
func (x *exploration) work() {
	dir, err := os.MkdirTemp("", "powercut-")
	if err == nil {
		defer os.RemoveAll(dir)
	}
	x.fail(err)
	look := newExaminer(x.rec, x.judge)
	for j := range x.jobs {
		err := look.examine(j.image, j.crash, wal.CutPrefix, j.finish)
		if err == nil && j.barrier != nil {
			if err = look.examine(j.barrier, j.crash, wal.CutBarrier, j.finish); err != nil {
				err = fmt.Errorf("with --recover=barrier: %w", err)
			}
		}
		if err == nil && j.real != nil {
			if err = look.examineReal(program(x.plan.Jnbd), dir, j.real, j.crash); err != nil {
				err = fmt.Errorf("by the real binary: %w", err)
			}
		}
		x.note(j, err)
	}
}

// note counts a state.
func (x *exploration) note(j job, err error) {
	promised := false
	must := x.judge.mustHave(j.crash)
	for _, i := range x.judge.bySent {
		if promised = must(i); promised {
			break
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if promised {
		x.report.Promised++
	}
	if err != nil {
		x.report.Failures = append(x.report.Failures, Failure{j.state, j.where, err})
	}
}

// fail notes a mistake of the gate itself.
func (x *exploration) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.broken = errors.Join(x.broken, err)
}
