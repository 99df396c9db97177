// Package jnbd_test holds what is true of the tree as a whole.
package jnbd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is this module's path; what begins with it is ours.
const module = "jnbd"

// room is one line of the table in DESIGN, section 2.
type room struct {
	floor int
	knows []string // the rooms of ours that it may import; "all" is every lower floor
}

// rooms is that table. A package belongs to the room with the longest path that it lies
// in, so disk/crashdisk is a room of its own and vmtest/guest is part of vmtest. Packages
// of one room may import each other.
var rooms = map[string]room{
	"disk":   {floor: 0},
	"nbd":    {floor: 0},
	"kernel": {floor: 0},

	"nbd/nbdclient":  {floor: 1, knows: []string{"nbd"}},
	"disk/crashdisk": {floor: 1, knows: []string{"disk"}},
	"jsuper":         {floor: 1, knows: []string{"disk"}},
	"wal":            {floor: 1, knows: []string{"disk"}},
	"ordered":        {floor: 1, knows: []string{"disk"}},

	"attach": {floor: 2, knows: []string{"nbd", "nbd/nbdclient", "kernel"}},

	"journal": {floor: 2, knows: []string{"disk", "wal", "jsuper", "ordered"}},

	"metrics": {floor: 3, knows: []string{"nbd", "journal", "jsuper"}},
	"history": {floor: 3, knows: []string{"all"}},
	"mirror":  {floor: 3, knows: []string{"all"}},
	"explore": {floor: 3, knows: []string{"all"}},
	"cluster": {floor: 3, knows: []string{"all"}},

	"cmd":      {floor: 4, knows: []string{"all"}},
	"powercut": {floor: 4, knows: []string{"all"}},
	"mutation": {floor: 4, knows: []string{"all"}},
	"scripts":  {floor: 4, knows: []string{"all"}},

	"vmtest": {floor: 5, knows: []string{"all"}}, // asks powercut's judge

	// What is shipped, and what is written for people: tests only.
	"packaging": {floor: 4},
	"docs":      {floor: 4},
	"testtool":  {floor: 0},
	"":          {floor: 4}, // the root of the tree: these tests, no code
}

// listed is what `go list -json` says of a package, as far as it matters here. Imports are
// those of the code without its tests: a test may stand on crashdisk and look around.
type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
}

// TestFloors holds the tree against the table.
func TestFloors(t *testing.T) {
	packages := listPackages(t)
	for _, broken := range violations(packages) {
		t.Error(broken)
	}
}

// violations returns one sentence for each package that breaks the table.
func violations(packages []listed) []string {
	var found []string
	for _, p := range packages {
		from, ok := roomOf(p.ImportPath)
		if !ok {
			found = append(found, fmt.Sprintf("%s is in no room: give it a line in floors_test.go and in the design", p.ImportPath))
			continue
		}
		for _, imported := range p.Imports {
			if !ours(imported) {
				continue
			}
			to, ok := roomOf(imported)
			switch {
			case !ok, from == to:
				// An unknown package is reported as itself.
			case rooms[to].floor >= rooms[from].floor:
				found = append(found, fmt.Sprintf("%s (floor %d) imports %s (floor %d): imports point down only",
					p.ImportPath, rooms[from].floor, imported, rooms[to].floor))
			case !slices.Contains(rooms[from].knows, to) && !slices.Contains(rooms[from].knows, "all"):
				found = append(found, fmt.Sprintf("%s imports %s, and knows only %v",
					p.ImportPath, imported, rooms[from].knows))
			}
		}
	}
	return found
}

// roomOf is the room with the longest path that contains the package.
func roomOf(importPath string) (string, bool) {
	if importPath == module {
		return "", true
	}
	path := strings.TrimPrefix(importPath, module+"/")
	for {
		if _, ok := rooms[path]; ok {
			return path, true
		}
		cut := strings.LastIndexByte(path, '/')
		if cut < 0 {
			return "", false
		}
		path = path[:cut]
	}
}

// ours reports whether a package is one of this module.
func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// listPackages asks the go command for every package of the module.
func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.Bytes())
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("decode the output of %v: %v", cmd, err)
		}
		packages = append(packages, p)
		// The go command caches a test's result until a directory that the test itself
		// has read changes; what its child reads, it does not see.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if len(packages) < 2 {
		t.Fatalf("%v lists %d packages: is this the root of the tree?", cmd, len(packages))
	}
	return packages
}

// TestFloorsFindViolations proves that each rule can fail.
func TestFloorsFindViolations(t *testing.T) {
	tests := []struct {
		name string
		pkg  listed
		want string // part of the sentence; "" means that nothing is wrong
	}{
		{"down to a known room", listed{ImportPath: "jnbd/wal", Imports: []string{"errors", "jnbd/disk"}}, ""},
		{"within a room", listed{ImportPath: "jnbd/vmtest", Imports: []string{"jnbd/vmtest/step"}}, ""},
		{"the command knows all", listed{ImportPath: "jnbd/cmd/jnbd", Imports: []string{"jnbd/journal", "jnbd/nbd"}}, ""},
		{"another module", listed{ImportPath: "jnbd/disk", Imports: []string{"jnbdother/x"}}, ""},
		{"up", listed{ImportPath: "jnbd/wal", Imports: []string{"jnbd/journal"}}, "point down only"},
		{"same floor", listed{ImportPath: "jnbd/wal", Imports: []string{"jnbd/jsuper"}}, "point down only"},
		{"down to a room it must not know", listed{ImportPath: "jnbd/journal", Imports: []string{"jnbd/nbd"}}, "knows only"},
		{"a room inside a room", listed{ImportPath: "jnbd/disk", Imports: []string{"jnbd/disk/crashdisk"}}, "point down only"},
		{"code in tests only", listed{ImportPath: "jnbd/journal", Imports: []string{"jnbd/disk/crashdisk"}}, "knows only"},
		{"code in the root", listed{ImportPath: "jnbd", Imports: []string{"jnbd/disk"}}, "knows only"},
		{"no room", listed{ImportPath: "jnbd/util"}, "is in no room"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := strings.Join(violations([]listed{test.pkg}), "\n")
			if (test.want == "" && got != "") || !strings.Contains(got, test.want) {
				t.Errorf("violations: %q, want %q", got, test.want)
			}
		})
	}
}
