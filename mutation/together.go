package mutation

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Many breakages in one build (mutant schemata). To compile and link a test binary takes longer
// than most tests that run in it, so one holds all breakages that tests of its package must catch.
// A function that a breakage changes is there twice, and the environment says which is called:
//
//	func (d *Disk) saveTail(start int64) error {if breakageOn == "checkpoint-tail-first" {return d.saveTail_checkpoint_tail_first(start)};
//		… as it stands in the tree
//	}
//
//	func (d *Disk) saveTail_checkpoint_tail_first(start int64) error {
//		… as the patch leaves it
//	}
//
// Not every breakage can be built so. One that changes more than bodies of functions, or a function
// whose parameters lack names, is built alone.

// onVariable is the environment variable that names the breakage to run with.
const onVariable = "JNBD_BREAKAGE"

// errAlone: a breakage can't be built together with others.
var errAlone = errors.New("has to be built alone")

// together is the source with many breakages in it, all of them off.
type together struct {
	root  string
	files map[string]*switched // by path from the root, with slashes
	has   map[string]bool      // breakages, by name
}

// switched is a file whose functions ask which breakage is on.
type switched struct {
	text  string         // as it stands in the tree
	pkg   string         // the name of its package
	asks  map[int]string // by offset in text: what is inserted there
	after string         // functions that are added at the end
}

// source is a file of Go, parsed.
type source struct {
	text  string
	tree  *ast.File
	funcs map[string]*ast.FuncDecl // those with a body, by receiver and name
	rest  string                   // all other declarations
}

// putTogether is the source with all breakages of a list that can be built together.
func putTogether(root string, list []Breakage) (*together, error) {
	t := &together{root: root, files: map[string]*switched{}, has: map[string]bool{}}
	for i := range list {
		err := t.add(&list[i])
		if err != nil && !errors.Is(err, errAlone) {
			return nil, err
		}
		t.has[list[i].Name] = err == nil
	}
	return t, nil
}

// copied is a function as a breakage leaves it, and the place of the one in the tree.
type copied struct {
	file *switched
	at   int // offset in the tree's file, behind the brace that opens the body
	ask  string
	text string
}

// add adds a breakage, or nothing and an error that wraps errAlone.
func (t *together) add(b *Breakage) error {
	changed, err := b.apply(t.root)
	if err != nil {
		return err
	}
	var all []copied
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		file, whole, err := t.open(name)
		if err != nil {
			return err
		}
		broken, err := parseSource(changed[name])
		if err != nil {
			return fmt.Errorf("breakage %s: %s: %w", b.Name, name, err)
		}
		more, err := copies(whole, broken, b.Name)
		if err != nil {
			return fmt.Errorf("breakage %s: %s: %w", b.Name, name, err)
		}
		for _, c := range more {
			c.file = file
			all = append(all, c)
		}
	}
	for _, c := range all {
		c.file.asks[c.at] += c.ask
		c.file.after += "\n" + c.text + "\n"
	}
	return nil
}

// open returns a file of the tree.
func (t *together) open(name string) (*switched, *source, error) {
	file := t.files[name]
	if file == nil {
		text, err := os.ReadFile(filepath.Join(t.root, filepath.FromSlash(name)))
		if err != nil {
			return nil, nil, err
		}
		file = &switched{text: string(text), asks: map[int]string{}}
	}
	whole, err := parseSource(file.text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	file.pkg = whole.tree.Name.Name
	t.files[name] = file
	return file, whole, nil
}

// parseSource parses a file.
func parseSource(text string) (*source, error) {
	files := token.NewFileSet()
	// Positions count from 1 in a set of one file: see source.at.
	tree, err := parser.ParseFile(files, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	s := &source{text: text, tree: tree, funcs: map[string]*ast.FuncDecl{}}
	for _, decl := range tree.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			s.rest += s.of(decl) + "\n"
			continue
		}
		key := f.Name.Name
		if f.Recv != nil {
			key = s.of(f.Recv.List[0].Type) + "." + key
		}
		if s.funcs[key] != nil { // init
			return nil, fmt.Errorf("%s: more than one: %w", key, errAlone)
		}
		s.funcs[key] = f
	}
	return s, nil
}

// at is the offset of a position.
func (s *source) at(pos token.Pos) int { return int(pos - s.tree.FileStart) }

// of is the text of a node, without its doc comment.
func (s *source) of(node ast.Node) string {
	from := node.Pos()
	if f, ok := node.(*ast.FuncDecl); ok {
		from = f.Type.Func
	}
	return s.text[s.at(from):s.at(node.End())]
}

// signature is a function's text up to its body.
func (s *source) signature(f *ast.FuncDecl) string {
	return s.text[s.at(f.Type.Func):s.at(f.Body.Lbrace)]
}

// copies are the functions of a file that a breakage has changed.
func copies(whole, broken *source, breakage string) (list []copied, err error) {
	if whole.rest != broken.rest || len(whole.funcs) != len(broken.funcs) {
		return nil, fmt.Errorf("more than bodies of functions: %w", errAlone)
	}
	for _, key := range slices.Sorted(maps.Keys(broken.funcs)) {
		old, changed := whole.funcs[key], broken.funcs[key]
		switch {
		case old == nil || whole.signature(old) != broken.signature(changed):
			return nil, fmt.Errorf("the signature of %s: %w", key, errAlone)
		case whole.of(old) == broken.of(changed):
			continue
		}
		name := old.Name.Name + "_" + strings.ReplaceAll(breakage, "-", "_")
		call, err := whole.call(old, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		text := broken.of(changed)
		nameAt := broken.at(changed.Name.Pos()) - broken.at(changed.Type.Func)
		list = append(list, copied{
			at:   whole.at(old.Body.Lbrace) + 1,
			ask:  fmt.Sprintf("if breakageOn == %q {%s};", breakage, call),
			text: text[:nameAt] + name + text[nameAt+len(old.Name.Name):],
		})
	}
	return list, nil
}

// call is the statements that call a function of another name with what f was called with.
func (s *source) call(f *ast.FuncDecl, name string) (string, error) {
	named := func(fields *ast.FieldList) (names []string, err error) {
		if fields == nil {
			return nil, nil
		}
		for _, field := range fields.List {
			if len(field.Names) == 0 {
				return nil, fmt.Errorf("a parameter without a name: %w", errAlone)
			}
			for _, n := range field.Names {
				if n.Name == "_" {
					return nil, fmt.Errorf("a parameter without a name: %w", errAlone)
				}
				if _, variadic := field.Type.(*ast.Ellipsis); variadic {
					n = &ast.Ident{Name: n.Name + "..."}
				}
				names = append(names, n.Name)
			}
		}
		return names, nil
	}
	receiver, err := named(f.Recv)
	types, err2 := named(f.Type.TypeParams)
	values, err3 := named(f.Type.Params)
	if err := errors.Join(err, err2, err3); err != nil {
		return "", err
	}
	if len(types) > 0 {
		name += "[" + strings.Join(types, ", ") + "]"
	}
	call := fmt.Sprintf("%s(%s)", strings.Join(append(receiver, name), "."), strings.Join(values, ", "))
	if f.Type.Results.NumFields() == 0 {
		return call + "; return", nil
	}
	return "return " + call, nil
}

// overlay writes what `go build -overlay` takes into dir, and returns the list's path.
func (t *together) overlay(dir string) (string, error) {
	changed := map[string]string{}
	for name, file := range t.files {
		changed[name] = file.String()
		changed[path.Join(path.Dir(name), "breakage_on.go")] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar breakageOn = os.Getenv(%q)\n", file.pkg, onVariable)
	}
	return writeOverlay(t.root, dir, changed)
}

// String is the file with everything in it.
func (s *switched) String() string {
	var text strings.Builder
	from := 0
	for _, at := range slices.Sorted(maps.Keys(s.asks)) {
		text.WriteString(s.text[from:at] + s.asks[at])
		from = at
	}
	return text.String() + s.text[from:] + s.after
}
