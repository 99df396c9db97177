package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// world is what all machines of a test run share.
type world struct {
	kernel      Kernel
	initramfs   string // path
	accelerator string
	jnbd        string // path of the binary under test, static: host and guest run the same
}

// buildOnce builds the world for the first test that asks. dir is TestMain's to remove.
var buildOnce = sync.OnceValues(func() (*world, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	return build(ctx, worldDir)
})

// nextVersion is what upgradeOnce's jnbd says that it is.
const nextVersion = "99.0.0-next"

// upgradeOnce builds the program that takes the place of the world's jnbd, as a newer package does.
var upgradeOnce = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path := filepath.Join(worldDir, "jnbd-next")
	return path, goBuild(ctx, path, "jnbd/cmd/jnbd", "-ldflags", "-X main.releaseVersion="+nextVersion)
})

// worldDir holds what buildOnce builds, and upgradeOnce.
var worldDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "jnbd-vmtest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	worldDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// theWorld returns the world. Where the host lacks something the test is skipped, or
// fails under JNBD_REQUIRE=1, and says what is missing.
func theWorld(t *testing.T) *world {
	t.Helper()
	w, err := buildOnce()
	switch {
	case errors.Is(err, ErrUnavailable) && os.Getenv("JNBD_REQUIRE") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	return w
}

// build builds the world in dir.
func build(ctx context.Context, dir string) (*world, error) {
	// What the tests need on the host is missed here, before any of them begins.
	for _, name := range []string{"qemu-system-x86_64", "e2fsck", "debugfs"} {
		if _, err := findProgram(name); err != nil {
			return nil, err
		}
	}
	programs, err := HostPrograms("nbd-client", "mkfs.ext4", "e2fsck", "bash", "mkdir", "mkswap", "mount", "setpriv", "swapon", "swapoff", "umount")
	if err != nil {
		return nil, err
	}
	kernel, err := FindKernel(ctx)
	if err != nil {
		return nil, err
	}
	w := &world{
		kernel:    kernel,
		initramfs: filepath.Join(dir, "initramfs"),
		jnbd:      filepath.Join(dir, "jnbd"),
	}
	init := filepath.Join(dir, "init")
	if err := goBuild(ctx, init, "jnbd/vmtest/guest"); err != nil {
		return nil, err
	}
	if err := goBuild(ctx, w.jnbd, "jnbd/cmd/jnbd"); err != nil {
		return nil, err
	}
	programs = append(programs, Program{"jnbd", w.jnbd})
	archive, err := os.Create(w.initramfs)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(BuildInitramfs(archive, kernel, init, programs), archive.Close()); err != nil {
		return nil, err
	}
	w.accelerator = Accelerator(ctx, kernel, w.initramfs)
	return w, nil
}

// goBuild builds a package as a static program.
func goBuild(ctx context.Context, path, pkg string, flags ...string) error {
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
	}
	return nil
}
