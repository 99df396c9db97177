package docs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	text := strings.ReplaceAll(`# Title
'''sh
a
b
'''
<!-- ctrl-c -->
'''text
'''
<!-- new directory -->
'''console fails=12
$ one \
> two
out
$ three
'''
'''sh serve
s
'''
'''sh tree serve
m
'''
'''console debian
$ n
'''
`, "'''", "```")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Block{
		{File: path, Line: 3, Commands: []Command{{Text: "a\nb"}}},
		{File: path, Line: 6, Kind: CtrlC},
		{File: path, Line: 9, Kind: Anew},
		{File: path, Line: 11, Code: 12, Commands: []Command{{"one \\\ntwo", []string{"out"}}, {"three", []string{}}}},
		{File: path, Line: 17, Kind: Serve, Commands: []Command{{Text: "s"}}},
		{File: path, Line: 20, Kind: Serve, Place: Tree, Commands: []Command{{Text: "m"}}},
		{File: path, Line: 23, Place: Debian, Commands: []Command{{"n", []string{}}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestReadRefusesWhatItDoesNotKnow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	for _, bad := range []string{"```sh nurun\n```\n", "```sh norun\n```\n", "```console fails=often\n```\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if blocks, err := Read(path); err == nil {
			t.Errorf("%q: no error, but %v", bad, blocks)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		want, got string
		ok        bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a\nb", false},
		{"a\n…", "a\nb\nc", true},
		{"…\nc", "a\nb\nc", true},
		{"…\nd", "a\nb\nc", false},
		{"size: … MiB", "size:   64.0 MiB", true},
		{"size: … MiB", "size:   64.0 KiB", false},
		{"a.c", "abc", false},
		{"…", "", true},
		{"a", "", false},
	} {
		lines := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "\n")
		}
		if ok := Matches(lines(test.want), lines(test.got)); ok != test.ok {
			t.Errorf("Matches(%q, %q) = %v", test.want, test.got, ok)
		}
	}
}

// TestFor: blocks of one place in all documents, and drop-ins; none is an error.
func TestFor(t *testing.T) {
	root := t.TempDir()
	const of = "```sh vm\n%[1]s\n```\n```sh\nhere\n```\n```console debian\n$ %[1]s\n$ more\n```\n"
	if err := errors.Join(
		os.Mkdir(filepath.Join(root, "docs"), 0o755),
		os.WriteFile(filepath.Join(root, "docs", "a.md"), fmt.Appendf(nil, of, "a"), 0o600),
		os.WriteFile(filepath.Join(root, "docs", "b.md"), fmt.Appendf(nil, of, "b"), 0o600),
		os.WriteFile(filepath.Join(root, "README.md"), fmt.Appendf(nil, of, "c"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[Place][]string{VM: {"a", "b", "c"}, Debian: {"a\nmore", "b\nmore", "c\nmore"}} {
		blocks, err := For(root, place)
		var got []string
		for _, b := range blocks {
			got = append(got, b.Text())
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", place, err, diff)
		}
	}
	if blocks, err := For(root, Tree); err == nil {
		t.Errorf("no block is for the tree, and these are found: %v", blocks)
	}
	if found, err := DropIns(root); err == nil {
		t.Errorf("there is no drop-in, and these are found: %q", found)
	}
	text := "- a\n\n  ```ini\n  [Unit]\n  After=b\n  ```\n```ini\n[Service]\nUser=c\n```\n"
	if err := os.WriteFile(filepath.Join(root, "docs", "c.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := DropIns(root)
	if diff := cmp.Diff([]string{"[Unit]\nAfter=b\n", "[Service]\nUser=c\n"}, found); diff != "" || err != nil {
		t.Errorf("drop-ins: %v (-want +got):\n%s", err, diff)
	}
}

// TestRunnerFails shows that a document which is wrong is found out.
func TestRunnerFails(t *testing.T) {
	for name, block := range map[string]Block{
		"a command fails":      {Commands: []Command{{Text: "false\ntrue"}}},
		"it should have":       {Code: 3, Commands: []Command{{Text: "true"}}},
		"another exit code":    {Code: 3, Commands: []Command{{Text: "(exit 4)"}}},
		"another output":       {Commands: []Command{{Text: "echo b", Output: []string{"a"}}}},
		"a server never ready": {Kind: Serve, Commands: []Command{{Text: "true"}}},
	} {
		if problems := runBlocks("/bin/true", []Block{block}); len(problems) == 0 {
			t.Errorf("%s: nothing is found", name)
		}
	}
	fine := []Block{
		{Commands: []Command{{Text: "x=1"}}},
		{Code: 3, Commands: []Command{{Text: "echo $x; (exit 3)", Output: []string{"1"}}}},
		{Kind: Serve, Commands: []Command{{Text: "echo ready"}}},
	}
	if problems := runBlocks("/bin/true", fine); len(problems) != 0 {
		t.Errorf("a document without fault: %v", problems)
	}
}
