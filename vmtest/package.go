package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// currentVersion asks apt for the version of a Debian package that it would install.
func currentVersion(ctx context.Context, name string) (string, error) {
	shown, err := output(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return "", err
	}
	version, ok := field(shown, "Version: ", "")
	if !ok {
		return "", fmt.Errorf("apt-cache show %s names no version", name)
	}
	return version, nil
}

// fetchPackage returns the directory below cache that a Debian package is unpacked in, not
// installed; it downloads the package when cache lacks it.
func fetchPackage(ctx context.Context, cache, name, version string) (dir string, err error) {
	dir = filepath.Join(cache, name+"_"+version)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Unpacked beside its place and renamed, so that a directory with the right name is
	// whole, also when two test runs do this at once.
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if _, err := output(ctx, work, "apt-get", "download", name+"="+version); err != nil {
		return "", err
	}
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(packages) != 1 {
		return "", fmt.Errorf("download %s: got %d files, want one", name, len(packages))
	}
	tree := filepath.Join(work, "tree")
	if _, err := output(ctx, work, "dpkg-deb", "-x", packages[0], tree); err != nil {
		return "", err
	}
	if err := os.Rename(tree, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// field finds the first line of text that begins with prefix, blanks aside, and returns
// the rest of the line behind keep.
func field(text, prefix, keep string) (string, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			return keep + rest, true
		}
	}
	return "", false
}

// output runs a program in dir and returns its standard output. The error holds what the
// program said.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
