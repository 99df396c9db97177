package journal

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// Exploring a script: the power goes at every operation, and each image of that is recovered,
// by its prefix and by its last barrier; from some of them the power goes again at every
// operation of the recovery and of the close behind it.

// density is how much of that.
type density struct {
	images     int64 // of each crash; image 0 is process death, 1 the loss of all that is unflushed
	recoveries int   // of how many crashes they are crashed again; 0: of all, and of all images
}

var (
	sampled  = density{images: 3, recoveries: 1}               // for many scripts
	thorough = density{images: imagesPerCrash, recoveries: 16} // for those that are kept
	complete = density{images: 2 * imagesPerCrash}
)

// finding is what is wrong, with the script that shows it alone.
type finding struct {
	script script
	err    error
}

func (f *finding) Error() string {
	return fmt.Sprintf("%v\n\nKept as journal/testdata/scripts/NAME.txt, or pasted into JNBD_SCRIPT, this plays it again:\n\n%s", f.err, &f.script)
}

// run explores the script, or plays the one crash that it names. It counts states.
func (s *script) run(t *testing.T, how density) (states int, err error) {
	synctest.Test(t, func(t *testing.T) { states, err = s.explore(formatted(t, s.layout), how) })
	return states, err
}

func (s *script) explore(base *crashdisk.Group, how density) (states int, err error) {
	through, err := s.play(base, 0)
	if err != nil {
		return 0, &finding{*s, err}
	}
	x := explorer{script: s, how: how, every: 1}
	if how.recoveries != 0 {
		x.every = max(1, (through.used+through.g.Ops())/how.recoveries)
	}
	if s.crash != 0 {
		err = x.crashAt(base, s.crash)
		if err == nil {
			err = fmt.Errorf("the script has no operation %d", s.crash)
		}
	}
	for k := 1; s.crash == 0 && err != errCrashed; k++ {
		if err = x.crashAt(base, k); err == nil {
			break // it got through
		} else if err == errCrashed {
			err = nil
		} else {
			break
		}
	}
	if err == errCrashed {
		err = nil
	}
	return x.states, err
}

// explorer is an exploration on its way.
type explorer struct {
	*script
	how    density
	every  int // at one in so many operations recoveries are crashed, too
	states int
}

// crashAt plays the script up to operation k and looks at what is left. It returns errCrashed
// if all is well, and nil if the script has no such operation.
func (x *explorer) crashAt(base *crashdisk.Group, k int) error {
	p, err := x.play(base, k)
	if err == nil {
		return nil
	}
	named := *x.script
	if named.crash = k; !errors.Is(err, errCrashed) {
		return &finding{named, err}
	}
	for image := range x.how.images {
		if x.crash != 0 && int64(x.image) != image {
			continue
		}
		named.image = int(image)
		for _, barrier := range []bool{false, true} {
			if x.crash != 0 && x.barrier != barrier || barrier && image == crashdisk.SeedKill {
				continue
			}
			named.barrier = barrier
			if err := x.look(p, &named); err != nil {
				return err
			}
		}
	}
	return errCrashed
}

// look recovers one image, and crashes some of the recoveries.
func (x *explorer) look(p *player, named *script) error {
	powerLoss := int64(named.image) != crashdisk.SeedKill
	x.states++
	if _, err := p.recover(p.g.Image(int64(named.image)), powerLoss, named.barrier, 0, nil); err != nil {
		return &finding{*named, fmt.Errorf("crash at operation %d (%s): %w", named.crash, p.g.OpInfo(p.g.Ops()), err)}
	}
	if !x.goesOn(named) {
		return nil
	}
	for r := 1; ; r++ {
		if x.again != 0 && x.again != r {
			if r > x.again {
				return nil
			}
			continue
		}
		second := p.g.Image(int64(named.image))
		shown, err := p.recover(second, powerLoss, named.barrier, r, nil)
		again := *named
		again.again = r
		if err == nil {
			return nil // it has no such operation
		} else if !errors.Is(err, errCrashed) {
			return &finding{again, err}
		}
		for image := range int64(3) {
			if x.again != 0 && int64(x.then) != image || x.again == 0 && image != int64(r%3) && x.how != complete {
				continue
			}
			again.then = int(image)
			x.states++
			if _, err := p.recover(second.Image(image), powerLoss || image != crashdisk.SeedKill, false, 0, shown); err != nil {
				return &finding{again, fmt.Errorf("crash at operation %d (%s), again at operation %d of the recovery (%s): %w",
					named.crash, p.g.OpInfo(p.g.Ops()), r, second.OpInfo(r), err)}
			}
		}
	}
}

// goesOn decides whether the recovery of an image is crashed as well: process death, the loss
// of all and one other at every so many operations.
func (x *explorer) goesOn(named *script) bool {
	switch {
	case x.crash != 0:
		return x.again != 0
	case x.how.recoveries == 0:
		return true
	case named.crash%x.every != 0 || named.barrier:
		return false
	}
	other := 2 + named.crash%int(x.how.images-2)
	return named.image < 2 || named.image == other
}

// TestScripts explores every script of testdata/scripts: the workloads that found bugs, and
// those that catch a breakage. JNBD_SCRIPT plays another one: the name of a file, or the
// script itself.
func TestScripts(t *testing.T) {
	if given := os.Getenv("JNBD_SCRIPT"); given != "" {
		playGiven(t, given)
		return
	}
	paths, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			playText(t, string(text))
		})
	}
}

func playGiven(t *testing.T, given string) {
	t.Helper()
	if !strings.Contains(given, "\n") {
		text, err := os.ReadFile(given)
		if err != nil {
			t.Fatal(err)
		}
		given = string(text)
	}
	playText(t, given)
}

func playText(t *testing.T, text string) {
	t.Helper()
	s, err := parseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	how := thorough
	if os.Getenv("JNBD_CRASH_STRIDE") == "1" {
		how = complete
	}
	states, err := s.run(t, how)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states", states)
}

// TestScriptsAtRandom explores scripts by chance, and prints the smallest that fails. They are
// the same every time: other ones are asked for with -rapid.seed, more of them with
// -rapid.checks.
func TestScriptsAtRandom(t *testing.T) {
	if f := flag.Lookup("rapid.seed"); f.Value.String() == "0" {
		if err := f.Value.Set("1"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Value.Set("0") }()
	}
	states := 0
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScript(rt)
		if again, err := parseScript(s.String()); err != nil || again.String() != s.String() {
			rt.Fatalf("the script does not parse to itself: %v\n%s", err, s)
		}
		n, err := s.run(t, sampled)
		if err != nil {
			rt.Fatal(err)
		}
		states += n
	})
	t.Logf("%d states", states)
}

// drawScript makes a script on a disk so small that requests meet each other all the time.
func drawScript(t *rapid.T) *script {
	s := &script{layout: layout{name: "script", journal: scriptLog}}
	s.mode = rapid.SampledFrom([]jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Ordered, jsuper.Auto}).Draw(t, "mode")
	s.disk = rapid.SampledFrom([]int64{32 << 10, 64 << 10, 61<<10 + 512}).Draw(t, "disk")
	if s.mode == jsuper.Auto {
		s.disk = 256 << 10
	}
	if s.mode != jsuper.Data {
		s.spare = rapid.SampledFrom([]int64{0, 8 << 10, 32 << 10}).Draw(t, "spare")
		s.flushed = rapid.SampledFrom([]int64{0, 0, 8 << 10, 24 << 10}).Draw(t, "flushed")
	}
	if s.internal = rapid.Bool().Draw(t, "internal"); s.internal {
		s.journal = scriptLog - logStart + jsuper.ReservedBytes + blockBytes
	}
	for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
		s.steps = append(s.steps, s.drawStep(t, uint64(i+1)))
	}
	return s
}

// stepsDrawn is how often each step comes, by how often it stands there.
var stepsDrawn = strings.Fields(`write write write write write write write write flush flush flush
	trim trim zero batch batch part tick checkpoint idle restart lose close finish churn full full-state`)

func (s *script) drawStep(t *rapid.T, seed uint64) step {
	st := step{what: rapid.SampledFrom(stepsDrawn).Draw(t, "what")}
	switch words[st.what] {
	case 1:
		st.count = rapid.IntRange(1, 9).Draw(t, "image")
		return st
	case 0:
		return st
	}
	// Half of all requests are whole blocks among the first, the others any sectors and bytes.
	block := rapid.Int64Range(0, min(6, s.disk/blockBytes-1)).Draw(t, "block")
	st.off, st.n = block*blockBytes, rapid.Int64Range(1, 4).Draw(t, "blocks")*blockBytes
	if rapid.Bool().Draw(t, "crooked") {
		st.off += rapid.SampledFrom([]int64{0, 512, 1000, 4095}).Draw(t, "into")
		st.n = rapid.SampledFrom([]int64{1, 512, 4096, 5000, 9000}).Draw(t, "bytes")
	}
	if s.mode == jsuper.Auto && rapid.Bool().Draw(t, "bulk") {
		st.n += bulkBytes
	}
	st.n = min(st.n, s.disk-st.off)
	switch st.what {
	case "churn":
		st.count = rapid.IntRange(2, 20).Draw(t, "times")
		st.seed = seed * 1000
	case "write":
		st.seed = seed
		st.fua = rapid.IntRange(0, 4).Draw(t, "fua") == 1
	case "zero":
		st.keep = rapid.Bool().Draw(t, "keep")
	}
	return st
}
