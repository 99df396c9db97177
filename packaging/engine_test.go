package packaging

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/testtool"
)

// imageUser is who the program runs as in the image, USER of the Containerfile.
const imageUser = 10809

// engine is podman with a store of its own, which the test leaves nothing of.
type engine struct {
	t     *testing.T
	store string
}

// newEngine needs root: an engine without it needs what an administrator must set up.
func newEngine(t *testing.T) *engine {
	t.Helper()
	testtool.Need(t, "podman", "runc")
	testtool.NeedRoot(t)
	// Sockets lie below it, so its path must be short.
	store, err := os.MkdirTemp("", "jnbd-engine-")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t, store}
	t.Cleanup(func() {
		out, err := e.command(context.Background(), "rm", "--all", "--force", "--time", "0").CombinedOutput()
		if err := errors.Join(err, os.RemoveAll(store)); err != nil {
			t.Errorf("remove what the engine has made: %v\n%s", err, out)
		}
	})
	return e
}

// command is a command of the engine. It runs where other engines run or none, and leaves the
// machine's network and its services alone. runc also runs where a machine has the control
// groups of both versions, as crun does not.
func (e *engine) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "podman", append([]string{
		"--root", filepath.Join(e.store, "root"), "--runroot", filepath.Join(e.store, "run"), "--tmpdir", filepath.Join(e.store, "tmp"),
		"--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
	}, args...)...)
}

// container is a command that runs the image with the disks in dir. The limits are less than the
// engine's own, which not every root may set.
func (e *engine) container(ctx context.Context, dir string, args ...string) *exec.Cmd {
	return e.command(ctx, append([]string{
		"run", "--rm", "--name", "served", "--network", "host", "--pull", "never",
		"--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "-v", dir + ":/disks", "jnbd",
	}, args...)...)
}

// TestContainerServes has a real engine build the image and run it: it makes a disk, serves it
// over the loopback as the user of the image, stops in order, and brings everything home.
func TestContainerServes(t *testing.T) {
	testtool.Need(t, "tar", "nbdinfo", "nbdcopy")
	e := newEngine(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	release := t.TempDir()
	run(t, "tar", "-xf", tarFile(t), "-C", release)
	if out, err := e.command(ctx, "build", "-t", "jnbd", filepath.Join(release, releaseName())).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	disks := t.TempDir()
	if err := os.Chown(disks, imageUser, imageUser); err != nil {
		t.Fatal(err)
	}

	const size = 64 << 20
	served := e.container(ctx, disks, "serve", "-i", "127.0.0.1", "-p", freePort(t), "disk.img", "--size", "64M", "--journal-size", "64M")
	var log strings.Builder
	served.Stderr = &log
	stdout, err := served.StdoutPipe()
	if err == nil {
		err = served.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	uri, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("it ended before it was ready: %v, %v\n%s", err, served.Wait(), &log)
	}
	uri = strings.TrimSpace(uri)
	if got := strings.TrimSpace(run(t, "nbdinfo", "--size", uri)); got != strconv.Itoa(size) {
		t.Errorf("%s has %s bytes, want %d", uri, got, size)
	}
	content := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--flush", file, uri)
	if out, err := e.command(ctx, "stop", "--time", "60", "served").CombinedOutput(); err != nil {
		t.Fatalf("stop: %v\n%s", err, out)
	}
	if err := served.Wait(); err != nil || !strings.Contains(log.String(), "disk stopped") {
		t.Errorf("the stopped container: %v\n%s", err, &log)
	}

	if out, err := e.container(ctx, disks, "close", "disk.img").CombinedOutput(); err != nil {
		t.Fatalf("close: %v\n%s", err, out)
	}
	image := filepath.Join(disks, "disk.img")
	if raw := read(t, image); len(raw) != size || !bytes.Equal(raw[:len(content)], content) {
		t.Errorf("%d bytes in the raw image, not those that were written", len(raw))
	}
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != imageUser {
		t.Errorf("the disk belongs to user %d, want %d", owner, imageUser)
	}
}

// freePort is a TCP port of the loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}
