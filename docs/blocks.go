// Package docs reads the project's documents, so that tests can hold them to what they say:
// their commands are run, their links followed.
//
// A fenced block whose language is sh or console is a command of a reader. The words behind
// the language, which are not shown, say how it is run:
//
//	sh                 the lines are run by bash and must succeed
//	console            lines that begin with "$ " are run, and those that begin with "> " go
//	                   on with them; the others are what they print, a "…" stands for
//	                   anything, also for whole lines
//	fails=10           the exit code that the block's last command must have
//	serve              a server, in a terminal of its own: the next block begins when it has
//	                   printed its first line
//
// and where:
//
//	                   by a test of this package, in an empty directory
//	tree               by one that has a copy of the source tree
//	volumes            by one that is root, and has volumes with the names of the documents
//	container          by packaging, where a container engine may do what it wants
//	vm                 by vmtest: it needs root and the kernel's driver
//	debian             by vmtest, in a whole Debian under systemd
//
// There is no word for a block that is not run. Those of one place run one after another, in one
// shell. The comment <!-- ctrl-c --> presses it in the server's terminal, <!-- new directory -->
// begins anew with another shell.
package docs

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Kind is what is done with a block.
type Kind int

// What is done with a block.
const (
	Shell Kind = iota // run
	Serve             // run in the background
	CtrlC             // no block, but a comment: stop the server
	Anew              // no block, but a comment: another directory
)

// Place is where a block is run.
type Place string

// Where a block is run.
const (
	Here      Place = ""
	Tree      Place = "tree"
	Volumes   Place = "volumes"
	Container Place = "container"
	VM        Place = "vm"
	Debian    Place = "debian"
)

// Block is one step of a document.
type Block struct {
	File     string
	Line     int // of its first line, counted from 1
	Kind     Kind
	Place    Place
	Commands []Command
	Code     int // exit code that the last command must have
}

// Command is a part of a block that is run and compared at once.
type Command struct {
	Text   string
	Output []string // lines that it must print; nil where nothing is said of them
}

var (
	fence      = regexp.MustCompile("^```(sh|console)(.*)$")
	dropIn     = regexp.MustCompile("(?ms)^( *)```ini\n(.*?)^ *```$")
	parameters = regexp.MustCompile(`(\w+)(?:=("[^"]*"|\S+))?`)
)

// For returns the blocks of all documents that are run in a place other than here: those of the
// directory docs of the tree at root, by name, then those of the README. No such block is an error,
// for then a test runs nothing.
func For(root string, place Place) ([]Block, error) {
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, path := range append(paths, filepath.Join(root, "README.md")) {
		found, err := Read(path)
		if err != nil {
			return nil, err
		}
		for _, b := range found {
			if b.Place == place && len(b.Commands) > 0 {
				blocks = append(blocks, b)
			}
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("no block of the documents in %s is for %q", root, place)
	}
	return blocks, nil
}

// DropIns returns the drop-ins of systemd's units that the documents of the tree at root show: their
// blocks of language ini.
func DropIns(root string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read document: %w", err)
		}
		for _, block := range dropIn.FindAllSubmatch(text, -1) {
			indent := string(block[1])
			found = append(found, strings.ReplaceAll("\n"+string(block[2]), "\n"+indent, "\n")[1:])
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no document in %s shows a drop-in", root)
	}
	return found, nil
}

// Text is all commands of a block.
func (b Block) Text() string {
	var lines []string
	for _, c := range b.Commands {
		lines = append(lines, c.Text)
	}
	return strings.Join(lines, "\n")
}

// Read returns the steps of a document, in order.
func Read(path string) ([]Block, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	defer f.Close() // only read
	var blocks []Block
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		switch text := strings.TrimSpace(lines.Text()); text {
		case "<!-- ctrl-c -->":
			blocks = append(blocks, Block{File: path, Line: n, Kind: CtrlC})
			continue
		case "<!-- new directory -->":
			blocks = append(blocks, Block{File: path, Line: n, Kind: Anew})
			continue
		}
		opening := fence.FindStringSubmatch(lines.Text())
		if opening == nil {
			if strings.HasPrefix(lines.Text(), "```") { // of another language
				for n++; lines.Scan() && lines.Text() != "```"; n++ {
				}
			}
			continue
		}
		block := Block{File: path, Line: n + 1}
		if err := block.parameters(opening[2]); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		var content []string
		for n++; lines.Scan() && lines.Text() != "```"; n++ {
			content = append(content, lines.Text())
		}
		if opening[1] == "console" {
			block.Commands = session(content)
		} else {
			block.Commands = []Command{{Text: strings.Join(content, "\n")}}
		}
		blocks = append(blocks, block)
	}
	return blocks, lines.Err()
}

// parameters reads what stands behind the language.
func (b *Block) parameters(text string) error {
	for _, p := range parameters.FindAllStringSubmatch(text, -1) {
		value := strings.Trim(p[2], `"`)
		switch p[1] {
		case "serve":
			b.Kind = Serve
		case "tree", "volumes", "container", "vm", "debian":
			b.Place = Place(p[1])
		case "fails":
			code, err := strconv.Atoi(value)
			if err != nil {
				return fmt.Errorf("fails=%s: want an exit code", value)
			}
			b.Code = code
		default:
			return fmt.Errorf("a block's parameter %q is not known", p[0])
		}
	}
	return nil
}

// session splits a console's lines into commands and what they print.
func session(lines []string) []Command {
	var commands []Command
	for _, line := range lines {
		last := len(commands) - 1
		if text, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, Command{Text: text, Output: []string{}})
		} else if text, ok := strings.CutPrefix(line, "> "); ok && last >= 0 && len(commands[last].Output) == 0 {
			commands[last].Text += "\n" + text
		} else if last >= 0 {
			commands[last].Output = append(commands[last].Output, line)
		}
	}
	return commands
}

// Matches reports whether the lines that a command printed are those that are wanted. Runs
// of blanks are all the same: figures have different widths.
func Matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "…" {
		for skip := 0; skip <= len(got); skip++ {
			if Matches(want[1:], got[skip:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && lineMatches(want[0], got[0]) && Matches(want[1:], got[1:])
}

func lineMatches(want, got string) bool {
	normal := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	parts := strings.Split(normal(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(normal(got))
}
