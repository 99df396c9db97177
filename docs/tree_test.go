package docs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/testtool"
)

// TestFirstCommand runs the first command of the README, scripts/run, in a copy of the tree: it
// builds jnbd, makes the demo disk, serves it, and says where. Ctrl-C ends it as it ends any jnbd.
// Then once more, with the disk that is there, over TCP.
func TestFirstCommand(t *testing.T) {
	testtool.Need(t, "bash", "tar", "nbdinfo")
	tree := copyTree(t)
	first := treeBlocks(t)[0]
	if first.Kind != Serve {
		t.Fatalf("%s:%d is no server: %s", first.File, first.Line, first.Text())
	}
	for _, c := range []struct{ scheme, command string }{
		{"nbd+unix://", first.Text()},
		{"nbd://", "scripts/run -p 0"},
	} {
		uri, end := runDemo(t, tree, c.command)
		if !strings.HasPrefix(uri, c.scheme) {
			t.Errorf("%s serves at %q, want %s…", c.command, uri, c.scheme)
		}
		if size, err := exec.Command("nbdinfo", "--size", uri).CombinedOutput(); err != nil || strings.TrimSpace(string(size)) != "1073741824" {
			t.Errorf("size of the demo disk: %v, %s", err, size)
		}
		end()
	}
	if _, err := os.Stat(filepath.Join(tree, "demo", "disk.img.jnbd")); err != nil {
		t.Error(err)
	}
}

// treeBlocks are the blocks that are run in a copy of the tree.
func treeBlocks(t *testing.T) []Block {
	t.Helper()
	blocks, err := For("..", Tree)
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

// copyTree copies the tree into a directory with a short name, for sockets lie in it: without its
// repository, and without what earlier builds and runs have left.
func copyTree(t *testing.T) string {
	t.Helper()
	tree, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tree) })
	pack := exec.Command("bash", "-c", `set -o pipefail; tar --exclude=./.git --exclude=./bin --exclude=./dist --exclude=./demo -cf - . | tar -C "$0" -xf -`, tree)
	pack.Dir = ".."
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	return tree
}

// buildFlags has Go not compile for each run of a test what another path has compiled.
func buildFlags() string { return "GOFLAGS=" + os.Getenv("GOFLAGS") + " -trimpath" }

// runDemo runs scripts/run, by a command of bash, in a tree until it says where the disk is. end is
// Ctrl-C.
func runDemo(t *testing.T, tree, command string) (uri string, end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // it compiles everything at first
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+command)
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), buildFlags())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for !strings.HasPrefix(uri, "nbd") && err == nil {
		uri, err = lines.ReadString('\n')
		uri = strings.TrimSpace(uri)
	}
	if err != nil {
		cancel()
		t.Fatalf("scripts/run said no URI: %v\n%s", cmd.Wait(), &log)
	}
	return uri, func() {
		t.Helper()
		defer cancel()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(lines) // a read that fails misses text, which is looked for
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
			t.Errorf("scripts/run after Ctrl-C: %v, want exit code 130\n%s", err, &log)
		}
		if !strings.Contains(string(said), "mkfs.ext4") || !strings.Contains(string(said), "Ctrl-C") {
			t.Errorf("scripts/run does not say what to try:\n%s", said)
		}
	}
}

// TestTree runs the other commands that belong into the tree, in a copy of it. What Go builds and
// runs is real; what would take minutes is only written down: tests, linters and models.
// scripts/test must test every package, scripts/check race them, and both must fail when a test
// does.
func TestTree(t *testing.T) {
	testtool.Need(t, "bash", "tar", "fio", "nbdkit", "qemu-nbd", "nbd-server", "nbdcopy", "nbdfuse", "nbdsh", "mkfs.ext4")
	tree := copyTree(t)
	calls := filepath.Join(t.TempDir(), "calls")
	standIn(t, tree, calls)
	ran := map[string]string{}
	for _, b := range treeBlocks(t) {
		if b.Kind == Serve {
			continue // TestFirstCommand
		}
		t.Logf("%s:%d", b.File, b.Line)
		if out, err := runInTree(tree, b.Text(), "FAIL="); err != nil {
			t.Errorf("%s:%d: %v\n%s", b.File, b.Line, err, out)
		}
		ran[b.Text()] = takeCalls(t, calls)
	}
	packages := strings.Fields(run(t, "go", "list", "../..."))
	for _, name := range []string{"scripts/check", "scripts/test"} {
		said := callsOf(t, ran, name)
		for _, want := range []string{"go vet ./...", "go tool staticcheck ./...", "go tool gofumpt -l .", "model "} {
			if !strings.Contains(said, want+"\n") {
				t.Errorf("%s does not run %q:\n%s", name, want, said)
			}
		}
		for _, p := range packages {
			if racedNever := strings.HasPrefix(p, "jnbd/vmtest"); name == "scripts/check" && racedNever {
				continue
			}
			if !strings.Contains(testsOf(said), " "+p+" ") {
				t.Errorf("%s does not test %s:\n%s", name, p, said)
			}
		}
		if out, err := runInTree(tree, "./"+name, "FAIL=TestFloors"); err == nil {
			t.Errorf("%s is content with a test that fails:\n%s", name, out)
		}
	}
}

// standIn puts programs that write down how they are called before those of the host: a Go that
// builds and lists, but fails where its arguments contain $FAIL and is content with everything
// else, and the package manager. scripts/model in the tree is another.
func standIn(t *testing.T, tree, calls string) {
	t.Helper()
	goProgram, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	note := "#!/bin/bash\necho \"${0##*/} $*\" >>" + quote(calls) + "\n"
	bin := filepath.Join(tree, "stand-in")
	if err := errors.Join(
		os.Mkdir(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "go"), []byte(note+`
case $* in
'build ./...') ;;
build* | list* | env*) exec `+quote(goProgram)+` "$@" ;;
*) [ -z "$FAIL" ] || [[ $* != *$FAIL* ]] ;;
esac
`), 0o755),
		os.WriteFile(filepath.Join(bin, "apt-get"), []byte(note), 0o755),
		os.WriteFile(filepath.Join(bin, "apt-cache"), []byte(note), 0o755),
		os.WriteFile(filepath.Join(tree, "scripts", "model"), []byte(note), 0o755),
	); err != nil {
		t.Fatal(err)
	}
}

// runInTree runs commands by bash in a tree, with the programs of standIn.
func runInTree(tree, commands, env string) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euc", commands)
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), buildFlags(), env, "PATH="+filepath.Join(tree, "stand-in")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the servers of bench end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd.CombinedOutput()
}

// takeCalls is what the programs of standIn were asked for since it was called last.
func takeCalls(t *testing.T, calls string) string {
	t.Helper()
	said, err := os.ReadFile(calls)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err := errors.Join(err, os.Remove(calls)); err != nil {
		t.Fatal(err)
	}
	return string(said)
}

// callsOf is what the block asked for that runs a script.
func callsOf(t *testing.T, ran map[string]string, script string) string {
	t.Helper()
	for text, calls := range ran {
		if strings.HasPrefix(text, "./"+script) {
			return calls
		}
	}
	t.Fatalf("no block begins with %s", script)
	return ""
}

// testsOf are the arguments of every `go test` among calls, a blank around each, and packages by
// their whole names.
func testsOf(calls string) string {
	var tests strings.Builder
	for line := range strings.Lines(calls) {
		if arguments, ok := strings.CutPrefix(line, "go test "); ok {
			tests.WriteString(" " + strings.ReplaceAll(strings.TrimSpace(arguments), " ./", " jnbd/") + " ")
		}
	}
	return tests.String()
}

// run is what a program prints, which must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}
