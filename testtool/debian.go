package testtool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Newer is a directory with programs of a release of Debian that this host need not be.
type Newer struct{ dir string }

// FromDebian gives packages of a release of Debian, with everything that they depend on. They are
// unpacked, not installed, in the user's cache: the first test that asks downloads them.
func FromDebian(t testing.TB, release string, packages ...string) Newer {
	t.Helper()
	Need(t, "mmdebstrap", "tar")
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(user, "jnbd", "debian", strings.Join(append([]string{release}, packages...), "-"))
	if _, err := os.Stat(dir); err == nil {
		return Newer{dir}
	}
	err = unpackDebian(dir, release, packages)
	switch {
	case err != nil && Required():
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	return Newer{dir}
}

// unpackDebian makes dir, whole or not at all, also when several test runs do it at once.
func unpackDebian(dir, release string, packages []string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	archive, tree := filepath.Join(work, "archive.tar"), filepath.Join(work, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("mmdebstrap", "--variant=extract", "--include="+strings.Join(packages, ","), release, archive),
		// Devices take root to make, and nobody needs them here.
		exec.Command("tar", "-C", tree, "--no-same-owner", "--exclude=./dev", "-xf", archive),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("packages of %s: %s: %w\n%s", release, cmd, err, out)
		}
	}
	if err := os.Rename(tree, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// Command is a program of usr/bin, with the libraries that it came with and not the host's.
func (n Newer) Command(name string, args ...string) *exec.Cmd {
	loader := filepath.Join(n.dir, "usr/lib64/ld-linux-x86-64.so.2")
	libraries := filepath.Join(n.dir, "usr/lib/x86_64-linux-gnu")
	cmd := exec.Command(loader, append([]string{"--library-path", libraries, filepath.Join(n.dir, "usr/bin", name)}, args...)...)
	// Python looks for its modules beside the program that was started, which is the loader.
	cmd.Env = append(os.Environ(), "PYTHONHOME="+filepath.Join(n.dir, "usr"), "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}
