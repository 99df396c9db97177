package mutation

import (
	"path/filepath"
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
	all := list(t)
	suite := NewSuite(root(t), t.TempDir(), all)
	for i := range all {
		if testing.Short() && i%16 != 0 {
			continue
		}
		b := &all[i]
		t.Run(b.Name, func(t *testing.T) {
			t.Parallel()
			o, alone, err := suite.Try(b)
			switch {
			case err != nil:
				t.Fatal(err)
			case !o.Caught:
				t.Fatalf("%s of %s passes, although: %s", b.Run, b.Package, b.What)
			}
			t.Logf("caught by %s; built alone: %v", o.First, alone)
			if err := suite.Unbroken(b.Package, b.Run); err != nil {
				t.Errorf("not broken, and yet: %v", err)
			}
		})
	}
}
