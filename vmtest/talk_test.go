package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/vmtest/step"
)

// fakeGuest is the other end of a talk, played by a test.
type fakeGuest struct {
	t    *testing.T
	port net.Conn
	talk *talk
	ask  func() step.Step // takes the next step that the host asks for
}

func newFakeGuest(t *testing.T) *fakeGuest {
	host, port := net.Pipe()
	g := &fakeGuest{t: t, port: port, talk: newTalk(host)}
	listened := make(chan struct{})
	go func() { // ends when the guest's end is closed
		g.talk.listen()
		close(listened)
	}()
	t.Cleanup(func() {
		port.Close()
		<-listened
		host.Close()
	})
	lines := step.NewScanner(port)
	g.ask = func() step.Step {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no step: %v", lines.Err())
		}
		var asked step.Step
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			t.Fatal(err)
		}
		return asked
	}
	return g
}

func (g *fakeGuest) answer(a step.Answer) {
	g.t.Helper()
	if err := step.WriteLine(g.port, a); err != nil {
		g.t.Fatal(err)
	}
}

// result is what talk.do returned, and the files it reported.
type result struct {
	answer step.Answer
	err    error
	files  []string
}

// do begins a step on the host.
func (g *fakeGuest) do(ctx context.Context, asked step.Step) <-chan result {
	done := make(chan result, 1)
	go func() { // ends with the step
		var r result
		r.answer, r.err = g.talk.do(ctx, asked, func(f step.File) { r.files = append(r.files, f.Name) })
		done <- r
	}()
	return done
}

// TestTalkTellsStepsApart: two steps run at once, their answers come in any order.
func TestTalkTellsStepsApart(t *testing.T) {
	g := newFakeGuest(t)
	slow := g.do(t.Context(), step.Step{Do: step.ReadTree})
	slowID := g.ask().ID
	quick := g.do(t.Context(), step.Step{Do: step.Read, Path: "/x"})
	asked := g.ask()
	if asked.Do != step.Read || asked.Path != "/x" || asked.ID == slowID {
		t.Fatalf("the second step is %+v", asked)
	}
	g.answer(step.Answer{ID: slowID, Files: []step.File{{Name: "a"}, {Name: "b"}}})
	g.answer(step.Answer{ID: asked.ID, Done: true, Out: "quick"})
	if r := <-quick; r.err != nil || r.answer.Out != "quick" || len(r.files) != 0 {
		t.Errorf("quick: %+v", r)
	}
	g.answer(step.Answer{ID: 12345, Done: true}) // nobody's
	g.answer(step.Answer{ID: slowID, Files: []step.File{{Name: "c"}}})
	g.answer(step.Answer{ID: slowID, Done: true, Err: "input/output error"})
	r := <-slow
	if r.err == nil || r.err.Error() != "input/output error" {
		t.Errorf("slow: error %v", r.err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, r.files); diff != "" {
		t.Errorf("files before the error (-want +got):\n%s", diff)
	}
}

// TestTalkGivesUp: a step whose context ends does not hold up the next one, though its
// answers still come.
func TestTalkGivesUp(t *testing.T) {
	g := newFakeGuest(t)
	ctx, cancel := context.WithCancel(t.Context())
	hung := g.do(ctx, step.Step{Do: step.Unmount})
	hungID := g.ask().ID
	cancel()
	if r := <-hung; !errors.Is(r.err, context.Canceled) {
		t.Errorf("error %v, want %v", r.err, context.Canceled)
	}
	next := g.do(t.Context(), step.Step{Do: step.Read})
	nextID := g.ask().ID
	for range 5 {
		g.answer(step.Answer{ID: hungID, Files: []step.File{{Name: "late"}}})
	}
	g.answer(step.Answer{ID: nextID, Done: true})
	if r := <-next; r.err != nil {
		t.Error(r.err)
	}
}

// TestTalkEnds: when the guest dies, steps that wait and steps that come later fail.
func TestTalkEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		words string // last words of the guest
		want  string // part of the error
	}{
		{"dies", "", errGone.Error()},
		{"dies in mid-line", `{"id":1,"done":tr`, `answer "{\"id\":1,\"done\":tr"`},
		{"talks nonsense", "Kernel panic - not syncing\n", `answer "Kernel panic - not syncing"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newFakeGuest(t)
			waiting := g.do(t.Context(), step.Step{Do: step.Unmount})
			g.ask()
			if c.words != "" {
				if _, err := g.port.Write([]byte(c.words)); err != nil {
					t.Fatal(err)
				}
			}
			g.port.Close()
			if r := <-waiting; r.err == nil || !strings.Contains(r.err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", r.err, c.want)
			}
			if r := <-g.do(t.Context(), step.Step{Do: step.Read}); r.err == nil || !strings.Contains(r.err.Error(), c.want) {
				t.Errorf("later: error %v, want one with %q", r.err, c.want)
			}
		})
	}
}
