package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// makeFiles makes empty files, and directories where a name ends with a slash, below a new
// directory.
func makeFiles(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenKernel(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   []string
		release string // "": an error
		modules string
	}{
		{"bookworm", []string{"boot/vmlinuz-6.1.0-1", "lib/modules/6.1.0-1/"}, "6.1.0-1", "lib/modules/6.1.0-1"},
		{"merged usr", []string{"boot/vmlinuz-6.12.1", "usr/lib/modules/6.12.1/"}, "6.12.1", "usr/lib/modules/6.12.1"},
		{"the last of two", []string{"boot/vmlinuz-6.1.1", "lib/modules/6.1.1/", "boot/vmlinuz-6.1.2", "lib/modules/6.1.2/"}, "6.1.2", "lib/modules/6.1.2"},
		{"the last lacks modules", []string{"boot/vmlinuz-6.1.1", "lib/modules/6.1.1/", "boot/vmlinuz-6.1.2"}, "6.1.1", "lib/modules/6.1.1"},
		{"no modules", []string{"boot/vmlinuz-6.1.1"}, "", ""},
		{"modules are a file", []string{"boot/vmlinuz-6.1.1", "lib/modules/6.1.1"}, "", ""},
		{"no kernel", []string{"lib/modules/6.1.1/"}, "", ""},
		{"nothing", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeFiles(t, c.files...)
			got, err := openKernel(dir)
			if c.release == "" {
				if err == nil || !strings.Contains(err.Error(), dir) {
					t.Fatalf("error %v, want one that names %s", err, dir)
				}
				return
			}
			want := Kernel{c.release, filepath.Join(dir, "boot", "vmlinuz-"+c.release), filepath.Join(dir, c.modules)}
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// TestFindKernelInPlace: JNBD_KERNEL_DIR goes before everything, and a wrong one is an
// error that a test may not skip.
func TestFindKernelInPlace(t *testing.T) {
	dir := makeFiles(t, "boot/vmlinuz-1", "lib/modules/1/")
	t.Setenv("JNBD_KERNEL_DIR", dir)
	kernel, err := FindKernel(t.Context())
	if err != nil || kernel.Release != "1" {
		t.Errorf("got %+v, %v", kernel, err)
	}
	t.Setenv("JNBD_KERNEL_DIR", t.TempDir())
	if _, err := FindKernel(t.Context()); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v, want one that is not %v", err, ErrUnavailable)
	}
}

// TestFindKernelWithoutApt: without apt, what is in the cache will do; without either, the
// error says what to do.
func TestFindKernelWithoutApt(t *testing.T) {
	cache := makeFiles(t,
		"jnbd/kernel/linux-image-1_1/boot/vmlinuz-1", "jnbd/kernel/linux-image-1_1/lib/modules/1/",
		"jnbd/kernel/unpack-7/boot/vmlinuz-2", "jnbd/kernel/unpack-7/lib/modules/2/")
	t.Setenv("JNBD_KERNEL_DIR", "")
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", cache)
	kernel, err := FindKernel(t.Context())
	if err != nil || kernel.Release != "1" {
		t.Errorf("got %+v, %v, want the kernel in the cache", kernel, err)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := FindKernel(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "JNBD_KERNEL_DIR") {
		t.Errorf("error %v, want %v with advice", err, ErrUnavailable)
	}
}

func TestField(t *testing.T) {
	const depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n  Depends: linux-image-other\n"
	if got, ok := field(depends, "Depends: linux-image-", "linux-image-"); !ok || got != "linux-image-6.1.0-9-cloud-amd64" {
		t.Errorf("got %q, %v", got, ok)
	}
	if got, ok := field(depends, "Version: ", ""); ok {
		t.Errorf("got %q, want nothing", got)
	}
}
