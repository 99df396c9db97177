package mutation

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// testTimeout ends a test that a breakage makes hang. To hang is not to catch.
const testTimeout = "100s"

// Outcome is what a test made of a breakage.
type Outcome struct {
	Caught bool
	First  string // the first test that failed, or the panic that ended all
	Output []byte // of the test
}

// Try builds the test with b, in dir, and runs it.
func (b *Breakage) Try(root, dir string) (Outcome, error) {
	overlay, err := b.overlay(root, dir)
	if err != nil {
		return Outcome{}, err
	}
	binary, err := build(root, b.Package, overlay, dir)
	if err != nil {
		return Outcome{}, fmt.Errorf("breakage %s does not build: %w", b.Name, err)
	}
	return run(root, b.Package, binary, b.Run)
}

// build makes the test binary of a package in dir, with what overlay replaces if it is not
// empty. It does not vet: what a breakage leaves unused is no concern.
func build(root, pkg, overlay, dir string) (binary string, err error) {
	binary = filepath.Join(dir, filepath.Base(pkg)+".test")
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return binary, nil
}

// run runs the tests that match of a test binary, in the directory of its package.
func run(root, pkg, binary, tests string) (Outcome, error) {
	cmd := exec.Command(binary, "-test.run", tests, "-test.short", "-test.failfast", "-test.v", "-test.timeout", testTimeout)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	out, err := cmd.CombinedOutput()
	o := Outcome{Output: out, First: firstFailure(out)}
	var exit *exec.ExitError
	switch {
	case bytes.Contains(out, []byte("panic: test timed out")):
		return o, fmt.Errorf("%s of %s: not over after %s", tests, pkg, testTimeout)
	case !bytes.Contains(out, []byte("=== RUN ")):
		return o, fmt.Errorf("%s of %s: no such test: %s", tests, pkg, out)
	case errors.As(err, &exit):
		o.Caught = true
	case err != nil:
		return o, fmt.Errorf("%v: %w", cmd, err)
	}
	return o, nil
}

// mustPass is run for a product that is not broken.
func mustPass(root, pkg, binary, tests string) error {
	o, err := run(root, pkg, binary, tests)
	if err == nil && o.Caught {
		err = fmt.Errorf("%s of %s fails:\n%s", tests, pkg, o.Output)
	}
	return err
}

// firstFailure is the name of the first test that says it failed, or the panic that ended it.
func firstFailure(out []byte) string {
	for line := range bytes.Lines(out) {
		line = bytes.TrimSpace(line)
		for _, mark := range []string{"--- FAIL: ", "panic: "} {
			if rest, ok := bytes.CutPrefix(line, []byte(mark)); ok {
				name, _, _ := bytes.Cut(rest, []byte(" ("))
				return string(name)
			}
		}
	}
	return ""
}
