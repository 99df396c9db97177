package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestIdentity: a file keeps its identity through names and writes, another has another.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	identity := func(path string, create bool) [16]byte {
		t.Helper()
		f, err := OpenFile(path, FileOptions{Create: create, Size: 4096})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("changed"), 100); err != nil {
			t.Fatal(err)
		}
		id, err := f.Identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := identity(path, true)
	other := identity(filepath.Join(dir, "other"), true)
	if first == [16]byte{} && other == [16]byte{} {
		return // a file system without birth times: nothing is claimed
	}
	if first == other {
		t.Errorf("two files have the identity %x", first)
	}
	renamed := filepath.Join(dir, "renamed")
	if err := os.Rename(path, renamed); err != nil {
		t.Fatal(err)
	}
	if again := identity(renamed, false); again != first {
		t.Errorf("renamed: identity %x, was %x", again, first)
	}
	if err := os.Remove(renamed); err != nil {
		t.Fatal(err)
	}
	if again := identity(path, true); again == first {
		t.Errorf("made again: identity %x, the same as the file before", again)
	}
}

// TestIdentityClosed: a closed file has none.
func TestIdentityClosed(t *testing.T) {
	f, err := OpenFile(filepath.Join(t.TempDir(), "image"), FileOptions{Create: true, Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Identity(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Identity: %v, want %v", err, fs.ErrClosed)
	}
}
