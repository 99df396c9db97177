package docs

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"jnbd/testtool"
)

// inlineCode finds what stands in backquotes within a line.
var inlineCode = regexp.MustCompile("`([^`\n]+)`")

// written is a document without its fenced blocks.
func written(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile("(?ms)^ *```.*?^ *```$").ReplaceAllString(string(text), "")
}

// TestNothingEscapes wants the pages for people to hold no code but in blocks of a language
// that is run or that is no command: what is indented, or says nothing, is never run.
func TestNothingEscapes(t *testing.T) {
	for _, path := range forPeople {
		for _, line := range regexp.MustCompile("(?m)^(?:    |\t)\\S.*$").FindAllString(written(t, path), -1) {
			t.Errorf("%s: an indented block is not run: %s", path, line)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		open := false
		for _, fence := range regexp.MustCompile("(?m)^( *)```(.*)$").FindAllStringSubmatch(string(text), -1) {
			if open = !open; !open {
				continue
			}
			language, _, _ := strings.Cut(fence[2], " ")
			if fence[1] != "" && (language == "sh" || language == "console") {
				t.Errorf("%s: a block of %s that is indented is not run", path, language)
			}
			if !slices.Contains([]string{"sh", "console", "text", "ini", "toml"}, language) {
				t.Errorf("%s: a block of language %q", path, language)
			}
		}
	}
}

// forPeople are the pages for those who run jnbd.
var forPeople = []string{"../README.md", "operate.md", "recover.md", "tune.md", "faq.md", "formats.md"}

// TestLinks follows every link between documents, to its heading. A link whose text is the
// name of a test must lead to that test.
func TestLinks(t *testing.T) {
	formats, err := filepath.Glob("../*/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob("decisions/*.md")
	if err != nil {
		t.Fatal(err)
	}
	followed := 0
	for _, path := range slices.Concat(documents(t), []string{"../CHANGELOG.md"}, formats, decisions) {
		for _, link := range regexp.MustCompile(`\[([^\]\n]*)\]\(([^)\s]+)\)`).FindAllStringSubmatch(written(t, path), -1) {
			text, target := link[1], link[2]
			parsed, err := url.Parse(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", path, target, err)
				continue
			}
			if parsed.Scheme != "" {
				continue // elsewhere in the world
			}
			followed++
			file := path
			if parsed.Path != "" {
				file = filepath.Join(filepath.Dir(path), parsed.Path)
			}
			content, err := os.ReadFile(file)
			if info, statErr := os.Stat(file); statErr == nil && info.IsDir() && parsed.Fragment == "" {
				continue
			}
			if err != nil {
				t.Errorf("%s: link to %s: %v", path, target, err)
				continue
			}
			if parsed.Fragment != "" && !slices.Contains(anchors(string(content)), parsed.Fragment) {
				t.Errorf("%s: link to %s: no such heading", path, target)
			}
			if test := strings.Trim(text, "`"); strings.HasPrefix(test, "Test") && !strings.Contains(string(content), "func "+test+"(") {
				t.Errorf("%s: %s is not in %s", path, test, file)
			}
		}
	}
	if followed == 0 {
		t.Error("no link was followed")
	}
}

// anchors are the names that headings get where documents are shown: lower case, blanks as
// hyphens, without punctuation.
func anchors(text string) []string {
	var found []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found = append(found, strings.ReplaceAll(strings.TrimSpace(name), " ", "-"))
	}
	return found
}

// manual is the text of every manual page, by name.
func manual(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command(testtool.Jnbd(t), "man", dir).CombinedOutput(); err != nil {
		t.Fatalf("jnbd man: %v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	texts := map[string]string{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimSuffix(filepath.Base(page), ".1")] = strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\fB`, "", `\fR`, "", `\fI`, "").Replace(string(text))
	}
	return texts
}

// TestExitCodes holds the tables of exit codes against the manual's.
func TestExitCodes(t *testing.T) {
	page := manual(t)["jnbd"]
	for _, path := range []string{"../README.md", "recover.md"} {
		rows := regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \|`).FindAllStringSubmatch(written(t, path), -1)
		var codes []string
		for _, row := range rows {
			codes = append(codes, row[1])
		}
		listed := regexp.MustCompile(`(?m)^\.B (\d+)\n(.*)$`).FindAllStringSubmatch(page, -1)
		if len(listed) < 5 {
			t.Fatalf("the manual lists %d codes:\n%s", len(listed), page)
		}
		for _, code := range listed {
			if !slices.Contains(codes, code[1]) {
				t.Errorf("%s: exit code %s (%s) is not in its table", path, code[1], code[2])
			}
		}
		if len(codes) != len(listed) {
			t.Errorf("%s: a table of codes %v, the manual has %d", path, codes, len(listed))
		}
	}
}

// TestOptionsExist wants every command and option that stands in a text for people to be
// one. (Commands in blocks are run, and fail where they are not.)
func TestOptionsExist(t *testing.T) {
	pages := manual(t)
	var everything strings.Builder
	for _, text := range pages {
		everything.WriteString(text)
	}
	checked := 0
	for _, path := range forPeople {
		for _, quoted := range inlineCode.FindAllStringSubmatch(written(t, path), -1) {
			words := strings.Fields(quoted[1])
			page := everything.String()
			switch {
			case words[0] == "jnbd" && len(words) > 1 && !strings.HasPrefix(words[1], "-"):
				checked++
				name := "jnbd-" + words[1]
				if page = pages[name]; page == "" {
					t.Errorf("%s: `%s`: there is no manual page %s", path, quoted[1], name)
					continue
				}
				if words[1] == "tls" && len(words) > 2 {
					page = pages[fmt.Sprintf("jnbd-tls-%s", words[2])]
				}
			case strings.HasPrefix(words[0], "--"), words[0] == "serve":
			default:
				continue
			}
			for _, word := range words {
				option, _, _ := strings.Cut(strings.TrimRight(word, ":;,"), "=")
				if strings.HasPrefix(option, "--") && option != "--help" {
					checked++
					if !regexp.MustCompile(regexp.QuoteMeta(option) + `\b`).MatchString(page) {
						t.Errorf("%s: `%s`: there is no option %s", path, quoted[1], option)
					}
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d commands and options in the texts", checked)
	}
}
