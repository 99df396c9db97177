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
	tree, err := os.MkdirTemp("", "run") // a short name: the socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tree)
	// Without what earlier builds and runs have left: it must make that itself.
	pack := exec.Command("bash", "-c", `set -o pipefail; tar --exclude=./.git --exclude=./bin --exclude=./dist --exclude=./demo -cf - . | tar -C "$0" -xf -`, tree)
	pack.Dir = ".."
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	for _, c := range []struct{ scheme, flags string }{
		{"nbd+unix://", ""},
		{"nbd://", "-p 0"},
	} {
		uri, end := runDemo(t, tree, strings.Fields(c.flags)...)
		if !strings.HasPrefix(uri, c.scheme) {
			t.Errorf("scripts/run %s serves at %q, want %s…", c.flags, uri, c.scheme)
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

// runDemo runs scripts/run of a tree until it says where the disk is. end is Ctrl-C.
func runDemo(t *testing.T, tree string, flags ...string) (uri string, end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // it compiles everything at first
	cmd := exec.CommandContext(ctx, filepath.Join(tree, "scripts/run"), flags...)
	// Not to compile for each run of this test what another path has compiled.
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -trimpath")
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
