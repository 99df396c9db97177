package vmtest

import (
	"os"
	"slices"
	"testing"

	"jnbd/powercut"
	"jnbd/vmtest/workload"
	"jnbd/wal"
)

// TestPowerLossRaw: the guest's kernel sends numbered requests of several threads to the disk.
// Whatever a power cut leaves, recovery must find a prefix of an order that the guest could
// have seen, cut at a request boundary and not shorter than the flushes that it had answers
// for: powercut's judge decides that exactly. On disks that lie about flushes it must not.
func TestPowerLossRaw(t *testing.T) {
	c := lossCase{name: "raw", diskBytes: 8 << 20, load: []string{"raw", "-count", "150", "-lanes", "3"}}
	for _, c := range c.everyWay("data", "ordered", "auto", "data beside", "auto beside") {
		t.Run(c.String(), func(t *testing.T) {
			tp := recordLoss(t, c)
			judge := rawJudge(t, c, tp)
			plan := lossPlan{seed: 1, states: lossStates(t, 200), recover: wal.CutPrefix, judge: judge, realEvery: 50, stopAfter: 5}
			exploreHonest(t, c, tp, plan)
			catchLies(t, c, tp, plan)
		})
	}
}

// rawJudge judges what a raw writer's disk reads as.
func rawJudge(t *testing.T, c lossCase, tp *tape) func(string, *lossState) error {
	t.Helper()
	marks := tp.marks()
	slices.SortFunc(marks, func(a, b *workload.Mark) int { return int(a.Number) - int(b.Number) })
	var requests []powercut.Request
	for _, m := range marks {
		if m.Request == nil {
			continue
		}
		if m.Number != uint64(len(requests))+1 {
			t.Fatalf("request %d has no mark", len(requests)+1)
		}
		requests = append(requests, *m.Request)
	}
	judge, err := powercut.NewJudge(requests, c.diskBytes)
	if err != nil {
		t.Fatal(err)
	}
	return func(image string, s *lossState) error {
		content, err := os.ReadFile(image)
		if err != nil {
			return err
		}
		return judge.Decide(content, s.answered)
	}
}

// exploreHonest wants every state to keep every promise, and some of them once more with
// --recover=barrier, which may give up nothing that was acknowledged either.
func exploreHonest(t *testing.T, c lossCase, tp *tape, plan lossPlan) {
	t.Helper()
	barrier := plan
	barrier.recover, barrier.states, barrier.realEvery = wal.CutBarrier, plan.states/4, 0
	for _, plan := range []lossPlan{plan, barrier} {
		report := explore(t, c, tp, plan)
		t.Log(report)
		for _, err := range report.failures {
			t.Error(err)
		}
		if len(report.failures) == 0 && report.states < plan.states/2 {
			t.Errorf("only %d states of %d", report.states, plan.states)
		}
	}
}

// catchLies wants the same judge to find fault on disks that ignore flushes: in most states
// when they ignore all, in some when they ignore one in four.
func catchLies(t *testing.T, c lossCase, tp *tape, plan lossPlan) {
	t.Helper()
	plan.realEvery, plan.stopAfter, plan.states = 0, 0, 40
	plan.lie = noFlush
	if report := explore(t, c, tp, plan); len(report.failures)*2 < report.states {
		t.Errorf("all flushes ignored: only %d of %d states were found bad", len(report.failures), report.states)
	} else {
		t.Logf("all flushes ignored: %d of %d states found bad", len(report.failures), report.states)
	}
	plan.lie, plan.stopAfter = someFlushes, 1
	for range 10 {
		if report := explore(t, c, tp, plan); len(report.failures) > 0 {
			t.Logf("one flush in four ignored: state found bad after %d", report.states)
			return
		}
		plan.seed++
	}
	t.Error("one flush in four ignored: no state was found bad")
}
