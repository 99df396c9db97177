package docs

import (
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
'''sh norun="needs a moon"
m
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
		{File: path, Line: 20, Kind: NotRun, Reason: "needs a moon", Commands: []Command{{Text: "m"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestReadRefusesWhatItDoesNotKnow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	for _, bad := range []string{"```sh nurun\n```\n", "```console fails=often\n```\n"} {
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

// TestRunnerFails shows that a document which is wrong is found out.
func TestRunnerFails(t *testing.T) {
	for name, block := range map[string]Block{
		"a command fails":      {Commands: []Command{{Text: "false\ntrue"}}},
		"it should have":       {Code: 3, Commands: []Command{{Text: "true"}}},
		"another exit code":    {Code: 3, Commands: []Command{{Text: "(exit 4)"}}},
		"another output":       {Commands: []Command{{Text: "echo b", Output: []string{"a"}}}},
		"a server never ready": {Kind: Serve, Commands: []Command{{Text: "true"}}},
		"no reason":            {Kind: NotRun, Reason: "no"},
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
