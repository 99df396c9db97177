package mutation

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const whole = `package a

func f(x int, more ...string) error {
	return nil
}

func (s *set[T]) g() {
	s.n++
}
`

// TestTogether shows what becomes of a file.
func TestTogether(t *testing.T) {
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "a.go"), []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	edit := func(name, from, to string) Breakage {
		return Breakage{Name: name, Edits: []Edit{{File: "a.go", Old: from, New: to}}}
	}
	all, err := putTogether(top, []Breakage{
		edit("one", "\treturn nil\n", "\treturn errors.ErrUnsupported\n"),
		edit("the-other", "\treturn nil\n", "\tpanic(x)\n"),
		edit("method", "\ts.n++\n", "\ts.n--\n"),
		edit("another-signature", "func f(x int, more ...string) error {\n", "func f(x int, none ...string) error {\n"),
		edit("more-than-functions", "package a\n", "package a\n\nvar n int\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `package a

func f(x int, more ...string) error {` +
		`if breakageOn == "one" {return f_one(x, more...)};` +
		`if breakageOn == "the-other" {return f_the_other(x, more...)};
	return nil
}

func (s *set[T]) g() {if breakageOn == "method" {s.g_method(); return};
	s.n++
}

func f_one(x int, more ...string) error {
	return errors.ErrUnsupported
}

func f_the_other(x int, more ...string) error {
	panic(x)
}

func (s *set[T]) g_method() {
	s.n--
}
`
	if diff := cmp.Diff(want, all.files["a.go"].String()); diff != "" {
		t.Error(diff)
	}
	has := map[string]bool{"one": true, "the-other": true, "method": true, "another-signature": false, "more-than-functions": false}
	if diff := cmp.Diff(has, all.has); diff != "" {
		t.Error(diff)
	}
}

// TestBuiltAlone: a function whose parameters lack names can't be called by another one.
func TestBuiltAlone(t *testing.T) {
	for _, head := range []string{"func f(int)", "func f(_ int)", "func (set) f()", "func f[_ any](x int)"} {
		old, err := parseSource("package a\n\n" + head + " {\n\told()\n}\n")
		if err != nil {
			t.Fatal(err)
		}
		broken, err := parseSource("package a\n\n" + head + " {\n\tbroken()\n}\n")
		if err != nil {
			t.Fatal(err)
		}
		if list, err := copies(old, broken, "b"); !errors.Is(err, errAlone) {
			t.Errorf("%s: %v, %v", head, list, err)
		}
	}
}

// TestOnlyOneIsOn: of breakages in the same build, one that does no harm is found not to be caught,
// beside one that is. Where one of them does not build, the other is tried all the same.
func TestOnlyOneIsOn(t *testing.T) {
	flush := func(name, to string) Breakage {
		return Breakage{
			Name: name, Package: "./disk", Run: "TestFailStopFlushes",
			Edits: []Edit{{File: "disk/failstop.go", Old: "\tf.failed = f.parent.Flush()\n", New: to}},
		}
	}
	harmless := flush("harmless", "\tf.failed = f.parent.Flush() // as before\n")
	harmful := flush("harmful", "\tf.failed = nil\n")
	nonsense := flush("nonsense", "\tnonsense\n")
	for _, others := range [][]Breakage{nil, {nonsense}} {
		s := NewSuite(root(t), t.TempDir(), append(others, harmless, harmful))
		for _, b := range []Breakage{harmless, harmful} {
			if o, alone, err := s.Try(&b); err != nil || o.Caught != (b.Name == "harmful") || alone != (others != nil) {
				t.Errorf("%s, with %d others: caught %v, built alone %v, %v", b.Name, len(others), o.Caught, alone, err)
			}
		}
		if err := s.Unbroken("./disk", "TestFailStopFlushes"); err != nil {
			t.Error(err)
		}
	}
	s := NewSuite(root(t), t.TempDir(), []Breakage{nonsense})
	if _, _, err := s.Try(&nonsense); err == nil {
		t.Error("what does not build passes for a breakage")
	}
}
