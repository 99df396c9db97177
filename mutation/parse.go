package mutation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A breakage in its file, NAME.patch:
//
//	What is done wrong, as a sentence, on one line.
//	breaks: P3 I6
//	caught by: ./journal TestCrashAtEveryOperation/data-beside-1clients
//
//	--- journal/checkpoint.go
//	@@
//	 a line that stays
//	-a line that goes
//	+a line that comes
//
// More @@ and --- follow as needed. The place of an edit is where its old lines, those that
// stay and those that go, stand.

// suffix ends the name of a breakage's file.
const suffix = ".patch"

// Breakage is one way to break the product, and the test that must catch it.
type Breakage struct {
	Name    string // of the file, without suffix
	What    string // is done wrong
	Breaks  string // promises, invariants and traps of the design
	Package string // of the test, as `go test` takes it
	Run     string // the test, as -run takes it
	Edits   []Edit
}

// Edit replaces lines of one file. Both sides are whole lines, each with its line feed.
type Edit struct {
	File     string // from the root of the tree, with slashes
	Old, New string
}

// List reads all breakages of a directory, in the order of their names.
func List(dir string) ([]Breakage, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	var list []Breakage
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		b, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		b.Name = strings.TrimSuffix(filepath.Base(path), suffix)
		list = append(list, b)
	}
	return list, nil
}

// parse reads one breakage, all but its name.
func parse(text string) (Breakage, error) {
	var b Breakage
	file := ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if err := b.take(i, line, &file); err != nil {
			return b, fmt.Errorf("line %d: %w: %q", i+1, err, line)
		}
	}
	return b, b.complete()
}

// take reads line i, from 0. file is the one that the edits are of.
func (b *Breakage) take(i int, line string, file *string) error {
	edit := len(b.Edits) - 1
	switch {
	case i == 0:
		b.What = line
	case strings.HasPrefix(line, "--- "):
		*file = strings.TrimPrefix(line, "--- ")
	case *file == "" && line == "":
	case *file == "":
		return b.header(line)
	case line == "@@":
		b.Edits = append(b.Edits, Edit{File: *file})
	case edit < 0 || b.Edits[edit].File != *file:
		return errors.New("not behind an @@")
	case line == "":
		return b.Edits[edit].line(' ', "\n")
	default:
		return b.Edits[edit].line(line[0], line[1:]+"\n")
	}
	return nil
}

// header reads one of the lines at the top.
func (b *Breakage) header(line string) error {
	key, value, _ := strings.Cut(line, ": ")
	switch key {
	case "breaks":
		b.Breaks = value
	case "caught by":
		b.Package, b.Run, _ = strings.Cut(value, " ")
	default:
		return errors.New("want breaks or caught by")
	}
	return nil
}

// line adds one line of a patch.
func (e *Edit) line(mark byte, text string) error {
	switch mark {
	case ' ':
		e.Old += text
		e.New += text
	case '-':
		e.Old += text
	case '+':
		e.New += text
	default:
		return errors.New("begins with none of space, - and +")
	}
	return nil
}

// complete refuses a breakage that could do nothing or prove nothing.
func (b *Breakage) complete() error {
	switch {
	case b.What == "" || b.Breaks == "" || b.Package == "" || b.Run == "":
		return errors.New("want what is done wrong, breaks, and caught by PACKAGE TEST")
	case len(b.Edits) == 0:
		return errors.New("no edit")
	}
	for _, e := range b.Edits {
		if e.Old == e.New || strings.TrimSpace(e.Old) == "" {
			return fmt.Errorf("an edit of %s that changes nothing, or has no old lines", e.File)
		}
	}
	return nil
}
