package step

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLines: what is written is what is read, and a line that is too long is refused by
// either side.
func TestLines(t *testing.T) {
	var port bytes.Buffer
	want := []Answer{
		{ID: 1, Files: []File{{Name: "dir/é \"quoted\"", Size: 1 << 40, CRC64: math.MaxUint64}}},
		{ID: 2, Done: true, Err: "two\nlines", Out: "\x00\x1b", Code: -1},
	}
	for _, answer := range want {
		if err := WriteLine(&port, answer); err != nil {
			t.Fatal(err)
		}
	}
	lines := NewScanner(&port)
	var got []Answer
	for lines.Scan() {
		var answer Answer
		if err := json.Unmarshal(lines.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		got = append(got, answer)
	}
	if diff := cmp.Diff(want, got); diff != "" || lines.Err() != nil {
		t.Errorf("%v (-want +got):\n%s", lines.Err(), diff)
	}
	if err := WriteLine(&port, Answer{Out: strings.Repeat("x", MaxLine)}); err == nil {
		t.Error("a line above MaxLine is sent")
	}
	long := NewScanner(strings.NewReader(strings.Repeat("x", MaxLine+1) + "\n"))
	if long.Scan() || long.Err() == nil {
		t.Error("a line above MaxLine is read")
	}
}

// TestLimitsFitALine: the largest answers that the guest makes are not refused.
func TestLimitsFitALine(t *testing.T) {
	worst := Answer{ID: math.MaxInt, Done: true, PID: math.MaxInt32, Out: Tail(bytes.Repeat([]byte{1}, 2*MaxOutput))}
	if err := WriteLine(new(bytes.Buffer), worst); err != nil {
		t.Errorf("output of control characters: %v", err)
	}
	var many Answer
	for i := range MaxFiles {
		many.Files = append(many.Files, File{Name: Name(1, 1000+i), Size: MaxFile, CRC64: math.MaxUint64})
	}
	if err := WriteLine(new(bytes.Buffer), many); err != nil {
		t.Errorf("%d files: %v", MaxFiles, err)
	}
}

// TestContent: the same seed gives the same tree, another seed another one; sizes stay
// below the limit and are of every scale.
func TestContent(t *testing.T) {
	small, large := 0, 0
	for i := range 200 {
		content := Content(1, i)
		if !bytes.Equal(content, Content(1, i)) {
			t.Fatalf("file %d differs from itself", i)
		}
		if len(content) > 8 && bytes.Equal(content, Content(2, i)) {
			t.Errorf("file %d is the same for another seed", i)
		}
		switch {
		case len(content) > MaxFile:
			t.Errorf("file %d has %d bytes", i, len(content))
		case len(content) < 4096:
			small++
		case len(content) > MaxFile/8:
			large++
		}
	}
	if small < 20 || large < 10 {
		t.Errorf("%d small and %d large files of 200", small, large)
	}
}

// TestWalk: every file below, with the checksum of its content; nothing of lost+found.
func TestWalk(t *testing.T) {
	dir := t.TempDir()
	var want []File
	for _, name := range []string{"a", "b/c", "b/d/e"} {
		content := []byte("content of " + name)
		want = append(want, Describe(name, content))
		write(t, filepath.Join(dir, name), content)
	}
	write(t, filepath.Join(dir, "lost+found", "x"), nil)
	got, err := Walk(dir)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Walk(dir); err == nil {
		t.Error("a symbolic link is taken for a file")
	}
	if _, err := Walk(filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory that is not there is no error")
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
