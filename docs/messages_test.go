package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryMessageIsExplained collects what jnbd can say when something is wrong, and wants
// each message, in backquotes, in recover.md. A message is
//
//   - the text of an error that has no other error as its cause,
//   - the text of a log line of level warn or error,
//   - the reason that a closed connection is logged with.
//
// Verbs are written as "…". Not collected: what is wrong with a command line (usagef), which
// recover.md explains as a whole, and errors that only say where another one happened.
func TestEveryMessageIsExplained(t *testing.T) {
	text, err := os.ReadFile("recover.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, quoted := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
		explained[quoted[1]] = true
	}
	said := messages(t)
	for _, m := range said {
		if !explained[m.text] {
			t.Errorf("%s: recover.md does not explain `%s`", m.where, m.text)
		}
	}
	if len(said) < 100 {
		t.Errorf("only %d messages: are these all?", len(said))
	}
	// What stands in the list of details and is no message any more only confuses.
	_, details, ok := strings.Cut(string(text), "\n## Details")
	if !ok {
		t.Fatal("recover.md has no list of details")
	}
	for _, quoted := range regexp.MustCompile("(?m)^- `([^`\n]+)`").FindAllStringSubmatch(details, -1) {
		if !slices.ContainsFunc(said, func(m message) bool { return m.text == quoted[1] }) {
			t.Errorf("recover.md explains `%s`, which jnbd does not say", quoted[1])
		}
	}
}

// message is a text with the place in the source that it comes from.
type message struct{ where, text string }

var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]`)

// messages collects from all that the program is made of.
func messages(t *testing.T) []message {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", "jnbd/cmd/jnbd").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var found []message
	for _, dir := range strings.Fields(string(out)) {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				found = append(found, messagesOf(t, path)...)
			}
		}
	}
	return found
}

func messagesOf(t *testing.T, path string) []message {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var found []message
	add := func(at ast.Node, text string) {
		position := set.Position(at.Pos())
		where := filepath.Base(filepath.Dir(path)) + "/" + filepath.Base(path) + ":" + strconv.Itoa(position.Line)
		text = strings.ReplaceAll(verb.ReplaceAllString(text, "…"), "%%", "%")
		if strings.Trim(text, "… :;,()") != "" {
			found = append(found, message{where, text})
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.CallExpr:
			text, ok := firstText(node)
			if !ok {
				return true
			}
			switch name := calledName(node.Fun); {
			case name == "errors.New":
				add(node, text)
			case name == "fmt.Errorf" && !strings.Contains(text, "%w"):
				add(node, text)
			case strings.HasSuffix(name, ".Msg") && (strings.Contains(name, ".Warn.") || strings.Contains(name, ".Error.")):
				add(node, text)
			}
		case *ast.ValueSpec: // the reasons of package nbd
			for i, name := range node.Names {
				if strings.HasPrefix(name.Name, "reason") && i < len(node.Values) {
					if text, ok := textOf(node.Values[i]); ok {
						add(node, text)
					}
				}
			}
		}
		return true
	})
	return found
}

// calledName is what is called, with the calls on the way: a.log.Warn.Err.Msg.
func calledName(fun ast.Expr) string {
	switch fun := fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		return calledName(fun.X) + "." + fun.Sel.Name
	case *ast.CallExpr:
		return calledName(fun.Fun)
	}
	return ""
}

// firstText is a call's first argument, if that is a text.
func firstText(call *ast.CallExpr) (string, bool) {
	if len(call.Args) == 0 {
		return "", false
	}
	return textOf(call.Args[0])
}

// textOf is a constant text, also one in several pieces.
func textOf(expr ast.Expr) (string, bool) {
	switch expr := expr.(type) {
	case *ast.BasicLit:
		if expr.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(expr.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, leftOK := textOf(expr.X)
		right, rightOK := textOf(expr.Y)
		return left + right, leftOK && rightOK
	}
	return "", false
}
