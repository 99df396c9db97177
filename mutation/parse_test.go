package mutation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `What is wrong.
breaks: P1 I2
caught by: ./wal TestOne|TestTwo

--- a.go
@@
 stays
-goes
+comes
@@
-old

+new
`

// TestParse shows the format.
func TestParse(t *testing.T) {
	got, err := parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	want := Breakage{
		What: "What is wrong.", Breaks: "P1 I2", Package: "./wal", Run: "TestOne|TestTwo",
		Edits: []Edit{
			{File: "a.go", Old: "stays\ngoes\n", New: "stays\ncomes\n"},
			{File: "a.go", Old: "old\n\n", New: "\nnew\n"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestParseRefuses: what could do nothing, or prove nothing, is no breakage.
func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, from, to string }{
		{"no promise", "breaks: P1 I2\n", ""},
		{"no test", " TestOne|TestTwo", ""},
		{"no edit", sample[strings.Index(sample, "\n---"):], "\n"},
		{"an edit that changes nothing", "-goes\n+comes\n", " goes\n"},
		{"an unknown key", "breaks:", "brakes:"},
		{"an unknown mark", "+comes", "?comes"},
		{"an edit of no file", "--- a.go\n", ""},
		{"lines before the first edit", "--- a.go\n@@\n", "--- a.go\n"},
	} {
		text := strings.Replace(sample, tc.from, tc.to, 1)
		if text == sample {
			t.Fatalf("%s: the sample is as it was", tc.name)
		}
		if _, err := parse(text); err == nil {
			t.Errorf("%s: accepted", tc.name)
		}
	}
}

// TestApply: old lines stand there once, as whole lines, or it is an error.
func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name, text, want string
		ok               bool
	}{
		{"once", "a\nold\nb\n", "a\nnew\nb\n", true},
		{"at the front", "old\nb\n", "new\nb\n", true},
		{"gone", "a\nb\n", "", false},
		{"twice", "old\nold\n", "", false},
		{"part of a line", "not old\n", "", false},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "a.go"), []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		b := Breakage{Name: tc.name, Edits: []Edit{{File: "a.go", Old: "old\n", New: "new\n"}}}
		got, err := b.apply(root)
		if (err == nil) != tc.ok || got["a.go"] != tc.want {
			t.Errorf("%s: %q, %v", tc.name, got["a.go"], err)
		}
	}
}

// TestNotCaught: a breakage that does no harm is found not to be caught, and one that does
// not build is an error.
func TestNotCaught(t *testing.T) {
	harmless := Breakage{
		Name: "harmless", Package: "./disk", Run: "TestSectorsIn",
		Edits: []Edit{{File: "disk/failstop.go", Old: "\tf.failed = f.parent.Flush()\n", New: "\tf.failed = f.parent.Flush() // as before\n"}},
	}
	if o, err := harmless.Try(root(t), t.TempDir()); err != nil || o.Caught {
		t.Errorf("harmless: caught %v, %v", o.Caught, err)
	}
	nonsense := harmless
	nonsense.Edits = []Edit{{File: "disk/failstop.go", Old: "\tf.failed = f.parent.Flush()\n", New: "\tnonsense\n"}}
	if _, err := nonsense.Try(root(t), t.TempDir()); err == nil {
		t.Error("what does not build passes for a breakage")
	}
	nothing := harmless
	nothing.Run = "TestThatDoesNotExist"
	if _, err := nothing.Try(root(t), t.TempDir()); err == nil {
		t.Error("a test that does not exist passes for one")
	}
}
