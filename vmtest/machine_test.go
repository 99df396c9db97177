package vmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// tryStart starts a machine on an initramfs that holds the given files and nothing else.
func tryStart(t *testing.T, ctx context.Context, deadline time.Duration, files map[string]string) (*Machine, error) {
	t.Helper()
	w := theWorld(t)
	path := filepath.Join(t.TempDir(), "initramfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	a := newArchive(f)
	for name, content := range files {
		if err := a.addFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return Start(ctx, Config{Kernel: w.kernel, Initramfs: path, Accelerator: w.accelerator, Deadline: deadline})
}

// TestStartSaysWhatWentWrong: a machine that does not come up is an error that says why,
// and it is gone.
func TestStartSaysWhatWentWrong(t *testing.T) {
	w := theWorld(t)
	init, err := os.ReadFile(filepath.Join(filepath.Dir(w.initramfs), "init"))
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("changed my mind"))
	for _, c := range []struct {
		name     string
		ctx      context.Context
		deadline time.Duration
		files    map[string]string
		want     string // part of the error
	}{
		{"no init", t.Context(), guestLife, nil, "died without END"},
		{"init fails", t.Context(), guestLife, map[string]string{"init": string(init), "modules/00-bad.ko": "not a module"}, "init failed: load module /modules/00-bad.ko"},
		{"too slow", t.Context(), time.Millisecond, map[string]string{"init": string(init)}, "deadline of 1ms"},
		{"called off", cancelled, guestLife, map[string]string{"init": string(init)}, "changed my mind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := tryStart(t, c.ctx, c.deadline, c.files)
			if err == nil {
				t.Errorf("it came up; then: %v", m.Kill())
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestQuitDemandsEnd: a machine that was killed has not ended in order, a step on it fails
// and says so.
func TestQuitDemandsEnd(t *testing.T) {
	w := theWorld(t)
	m, err := Start(t.Context(), Config{Kernel: w.kernel, Initramfs: w.initramfs, Accelerator: w.accelerator})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := m.Do(t.Context(), step.Step{Do: "no such step"}, nil); err == nil {
		t.Errorf("an unknown step answers %+v", answer)
	}
	if out, err := m.Run(t.Context(), "e2fsck", "-fn", "/dev/no-such-device"); err == nil || !strings.Contains(err.Error(), "exit code 8") {
		t.Errorf("e2fsck of nothing: %q, %v", out, err)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Do(t.Context(), step.Step{Do: step.Read, Path: "/proc/uptime"}, nil); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a step on a dead machine: %v", err)
	}
	if err := m.Quit(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Quit of a dead machine: %v", err)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("second Kill: %v", err)
	}
}
