package mutation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// testTimeout ends a test that a breakage makes hang. To hang is not to catch.
const testTimeout = "100s"

// Outcome is what a test made of a breakage.
type Outcome struct {
	Caught bool
	First  string // the first test that failed, or the panic that ended all
	Output []byte // of the test
}

// Suite tries breakages. Its methods may be called from many goroutines at once.
type Suite struct {
	root, dir string
	list      []Breakage

	mu       sync.Mutex
	binaries map[string]func() (*binary, error) // guarded by mu; by package
	tests    map[string]func() error            // guarded by mu; by package and test
}

// binary is the tests of a package, with breakages that are off.
type binary struct {
	path string
	has  map[string]bool // breakages, by name
}

// NewSuite returns a Suite of the tree at root. What it builds lies in dir, which is the caller's.
func NewSuite(root, dir string, list []Breakage) *Suite {
	return &Suite{
		root: root, dir: dir, list: list,
		binaries: map[string]func() (*binary, error){}, tests: map[string]func() error{},
	}
}

// Try runs the test that must catch b, with b. Where b has to be built alone, it says so.
func (s *Suite) Try(b *Breakage) (o Outcome, alone bool, err error) {
	built, err := s.binary(b.Package)
	if err != nil {
		return o, false, err
	}
	if built.has[b.Name] {
		o, err = run(s.root, b.Package, built.path, b.Run, b.Name)
		return o, false, err
	}
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return o, true, err
	}
	o, err = b.Try(s.root, dir)
	return o, true, errors.Join(err, os.RemoveAll(dir)) // a binary has ten megabytes
}

// Unbroken returns nil if tests of a package pass with all breakages off. Each runs once.
func (s *Suite) Unbroken(pkg, tests string) error {
	s.mu.Lock()
	test, ok := s.tests[pkg+" "+tests]
	if !ok {
		test = sync.OnceValue(func() error {
			built, err := s.binary(pkg)
			if err != nil {
				return err
			}
			return mustPass(s.root, pkg, built.path, tests)
		})
		s.tests[pkg+" "+tests] = test
	}
	s.mu.Unlock()
	return test()
}

// binary builds the tests of a package with all breakages that they must catch, once.
func (s *Suite) binary(pkg string) (*binary, error) {
	s.mu.Lock()
	built, ok := s.binaries[pkg]
	if !ok {
		built = sync.OnceValues(func() (*binary, error) { return s.build(pkg) })
		s.binaries[pkg] = built
	}
	s.mu.Unlock()
	return built()
}

// build is binary, without once. Should one of the breakages not build, all are built alone, so
// that the error is of the one.
func (s *Suite) build(pkg string) (*binary, error) {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return nil, err
	}
	all, err := putTogether(s.root, ofPackage(s.list, pkg))
	if err != nil {
		return nil, err
	}
	overlay, err := all.overlay(dir)
	if err != nil {
		return nil, err
	}
	if path, err := build(s.root, pkg, overlay, dir); err == nil {
		return &binary{path, all.has}, nil
	}
	path, err := build(s.root, pkg, "", dir)
	return &binary{path, nil}, err
}

// ofPackage are the breakages that tests of a package must catch.
func ofPackage(list []Breakage, pkg string) (own []Breakage) {
	for _, b := range list {
		if b.Package == pkg {
			own = append(own, b)
		}
	}
	return own
}

// Try builds the test with b and nothing else, in dir, and runs it.
func (b *Breakage) Try(root, dir string) (Outcome, error) {
	overlay, err := b.overlay(root, dir)
	if err != nil {
		return Outcome{}, err
	}
	path, err := build(root, b.Package, overlay, dir)
	if err != nil {
		return Outcome{}, fmt.Errorf("breakage %s does not build: %w", b.Name, err)
	}
	return run(root, b.Package, path, b.Run, "")
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

// run runs the tests that match of a test binary, in the directory of its package, with the
// breakage of that name on; "" for none.
func run(root, pkg, binary, tests, breakage string) (Outcome, error) {
	cmd := exec.Command(binary, "-test.run", tests, "-test.short", "-test.failfast", "-test.v", "-test.timeout", testTimeout)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	cmd.Env = append(os.Environ(), onVariable+"="+breakage)
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
	o, err := run(root, pkg, binary, tests, "")
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
