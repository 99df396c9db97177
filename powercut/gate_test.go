package powercut

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"jnbd/testtool"
)

// gateCase is a kind of disk that the gate is run with.
type gateCase struct {
	mode   string
	beside bool
}

func (c gateCase) String() string {
	if c.beside {
		return c.mode + "-beside"
	}
	return c.mode + "-internal"
}

// allCases are every mode in every placement.
var allCases = []gateCase{{"data", false}, {"data", true}, {"ordered", false}, {"ordered", true}, {"auto", false}, {"auto", true}}

// TestPowerCut is the gate on the engine in this process, with a journal so small that it
// wraps and is checkpointed all the time; and its negative controls.
func TestPowerCut(t *testing.T) {
	cases := allCases
	opt := Options{Seed: 1, JournalBytes: 2 << 20, DiskBytes: 2 << 20, Requests: 30}
	if testing.Short() {
		cases = []gateCase{{"data", true}, {"auto", false}}
		opt.JournalBytes, opt.DiskBytes, opt.Requests = 1<<20, 1<<20, 8
	}
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			opt.Mode, opt.Beside = c.mode, c.beside
			rec := record(t, opt)
			t.Run("honest", func(t *testing.T) { exploreHonest(t, rec, Plan{Seed: 1, States: 200}) })
			t.Run("no-flush", func(t *testing.T) { catchNoFlush(t, rec) })
			t.Run("some-flushes", func(t *testing.T) { catchSomeFlushes(t, rec) })
		})
	}
}

// TestPowerCutRealBinary is the gate on the unmodified binary, under nbdfuse.
func TestPowerCutRealBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: journals of 64 MiB take minutes under the race detector; TestPowerCut runs the same code")
	}
	jnbd := buildJnbd(t)
	for _, c := range allCases {
		t.Run(c.String(), func(t *testing.T) {
			rec := record(t, Options{Seed: 2, Jnbd: jnbd, Mode: c.mode, Beside: c.beside, Requests: 25, Rounds: []Ending{Kill, Stop}})
			exploreHonest(t, rec, Plan{Seed: 2, States: 100, Jnbd: jnbd, RealEvery: 40})
		})
	}
}

// buildJnbd is the binary as users get it. Where the host has no nbdfuse or can't mount, the
// test is skipped.
func buildJnbd(t *testing.T) string {
	t.Helper()
	if err := canMount(); err != nil {
		if os.Getenv("JNBD_REQUIRE") == "1" {
			t.Fatalf("JNBD_REQUIRE=1 forbids to skip: %v", err)
		}
		t.Skip(err)
	}
	return testtool.Jnbd(t)
}

// record makes a run. What it finds without any power cut fails the test.
func record(t *testing.T, opt Options) *Recording {
	t.Helper()
	rec, err := Record(opt)
	if errors.Is(err, ErrUnavailable) && os.Getenv("JNBD_REQUIRE") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// exploreHonest wants every state to keep every promise.
func exploreHonest(t *testing.T, rec *Recording, plan Plan) {
	t.Helper()
	report, err := Explore(rec, plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, f := range report.Failures {
		t.Error(f)
	}
	if len(report.Failures) > 0 {
		keep(t, rec, report.Failures[0].State)
		return
	}
	if report.States < plan.States*3/4 || report.AtFlush < report.Flushes*9/10 || report.Promised < report.States/2 {
		t.Errorf("too little to mean anything: %+v", report)
	}
	if plan.Jnbd != "" && report.Real == 0 {
		t.Error("the real binary looked at no state")
	}
}

// keep saves a recording that holds a bad state, beyond the end of the test.
func keep(t *testing.T, rec *Recording, state State) {
	t.Helper()
	dir, err := os.MkdirTemp("", "powercut-failed-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "run.rec")
	if err := rec.Save(path); err != nil {
		t.Fatal(err)
	}
	t.Logf("to look at the first again: scripts/powercut -inside -replay %s -state %s", path, state)
}

// catchNoFlush is the negative control: a disk that ignores flushes must be caught nearly
// wherever there is something to lose. And a bad state is found again by its name.
func catchNoFlush(t *testing.T, rec *Recording) {
	t.Helper()
	plan := Plan{Seed: 1, States: 1, Lie: NoFlush, MostFailures: 150}
	report, err := Explore(rec, plan)
	if err != nil {
		t.Fatal(err)
	}
	if caught := len(report.Failures); caught < 50 || caught < report.Promised*3/4 {
		t.Fatalf("flushes were ignored, and only %d of %d states with something to lose show it", caught, report.Promised)
	}

	path := filepath.Join(t.TempDir(), "run.rec")
	if err := rec.Save(path); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadRecording(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := report.Failures[len(report.Failures)/2]
	again, err := Explore(loaded, Plan{Only: &bad.State, Lie: NoFlush})
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Failures) != 1 || again.Failures[0].Where != bad.Where || again.Failures[0].Err.Error() != bad.Err.Error() {
		t.Errorf("state %s, explored alone: %v, want %v", bad.State, again.Failures, bad)
	}
}

// catchSomeFlushes: ignoring one flush in four must be caught as well. With a single disk
// the next flush often makes up for it before anybody was told anything.
func catchSomeFlushes(t *testing.T, rec *Recording) {
	t.Helper()
	// Few states show it, and which are looked at is chance: look on until one does.
	states := 0
	for seed := range uint64(30) {
		report, err := Explore(rec, Plan{Seed: seed, States: 200, Lie: SomeFlushes, MostFailures: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Failures) > 0 {
			return
		}
		states += report.States
	}
	t.Errorf("one flush in four was ignored, and none of %d states shows it", states)
}
