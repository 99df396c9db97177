package mutation

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTable: the documentation tells of the breakages as they are.
func TestTable(t *testing.T) {
	path := filepath.Join(root(t), "docs", "crash-testing.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := withTable(string(page), list(t))
	if err != nil {
		t.Fatal(err)
	}
	if want == string(page) {
		return
	}
	if os.Getenv("JNBD_UPDATE") != "1" {
		t.Fatalf("%s tells of other breakages: run JNBD_UPDATE=1 go test ./mutation -run TestTable", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
