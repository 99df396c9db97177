package mutation

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// breakages is where they are.
const breakages = "breakages"

// root is the top of the tree.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func list(t testing.TB) []Breakage {
	t.Helper()
	all, err := List(breakages)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestBreakagesFit: the old lines of every breakage stand in the source as it is, once.
func TestBreakagesFit(t *testing.T) {
	all := list(t)
	if len(all) == 0 {
		t.Fatal("no breakages")
	}
	for i := range all {
		if _, err := all[i].apply(root(t)); err != nil {
			t.Error(err)
		}
	}
}

// TestEveryBreakageIsCaught breaks the product in every way of the list, one at a time, and
// requires that the named test fails, and that it passes without the breakage. With -short
// it is one in sixteen.
func TestEveryBreakageIsCaught(t *testing.T) {
	whole := unbroken{root: root(t), dir: t.TempDir(), binaries: map[string]func() (string, error){}, tests: map[string]func() error{}}
	for i, b := range list(t) {
		if testing.Short() && i%16 != 0 {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o, err := b.Try(root(t), dir)
			os.RemoveAll(dir) // a hundred binaries are a gigabyte
			switch {
			case err != nil:
				t.Fatal(err)
			case !o.Caught:
				t.Fatalf("%s of %s passes, although: %s", b.Run, b.Package, b.What)
			}
			t.Logf("caught by %s", o.First)
			if err := whole.passes(b.Package, b.Run); err != nil {
				t.Errorf("not broken, and yet: %v", err)
			}
		})
	}
}

// unbroken runs tests on the product as it is, each once.
type unbroken struct {
	root, dir string
	mu        sync.Mutex
	binaries  map[string]func() (string, error) // guarded by mu; by package
	tests     map[string]func() error           // guarded by mu; by package and test
}

// passes returns nil if the test passes.
func (u *unbroken) passes(pkg, tests string) error {
	u.mu.Lock()
	binary, ok := u.binaries[pkg]
	if !ok {
		binary = sync.OnceValues(func() (string, error) { return build(u.root, pkg, "", u.dir) })
		u.binaries[pkg] = binary
	}
	test, ok := u.tests[pkg+" "+tests]
	if !ok {
		test = sync.OnceValue(func() error {
			path, err := binary()
			if err != nil {
				return err
			}
			return mustPass(u.root, pkg, path, tests)
		})
		u.tests[pkg+" "+tests] = test
	}
	u.mu.Unlock()
	return test()
}
