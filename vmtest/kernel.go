package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kernelPackage is the Debian package that depends on the newest cloud kernel.
const kernelPackage = "linux-image-cloud-amd64"

// Kernel is a kernel that can be booted, with its modules.
type Kernel struct {
	Release string // as in uname -r
	Image   string // path of vmlinuz
	Modules string // directory with the tree of .ko files
}

// FindKernel returns the kernel in JNBD_KERNEL_DIR, or else Debian's current cloud kernel
// from the cache, where it puts it first if need be. When apt can't say which kernel is
// current (no network, no lists), the newest one in the cache will do. Its error wraps
// ErrUnavailable when there is none to be had.
func FindKernel(ctx context.Context) (Kernel, error) {
	if dir := os.Getenv("JNBD_KERNEL_DIR"); dir != "" {
		kernel, err := openKernel(dir)
		if err != nil {
			return Kernel{}, fmt.Errorf("JNBD_KERNEL_DIR: %w", err)
		}
		return kernel, nil
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return Kernel{}, fmt.Errorf("find a place for the kernel: %w", err)
	}
	cache := filepath.Join(user, "jnbd", "kernel")
	kernel, err := fetchKernel(ctx, cache)
	if err == nil {
		return kernel, nil
	}
	if cached, ok := newestCached(cache); ok {
		return cached, nil
	}
	return Kernel{}, fmt.Errorf("%w: a Debian cloud kernel: %w; run apt-get update, or set JNBD_KERNEL_DIR", ErrUnavailable, err)
}

// fetchKernel returns Debian's current cloud kernel and downloads it when cache lacks it.
func fetchKernel(ctx context.Context, cache string) (Kernel, error) {
	name, version, err := currentKernel(ctx)
	if err != nil {
		return Kernel{}, err
	}
	dir, err := fetchPackage(ctx, cache, name, version)
	if err != nil {
		return Kernel{}, err
	}
	return openKernel(dir)
}

// currentKernel asks apt for the package that holds the current kernel, and its version.
func currentKernel(ctx context.Context) (name, version string, err error) {
	depends, err := output(ctx, "", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", "", err
	}
	name, ok := field(depends, "Depends: linux-image-", "linux-image-")
	if !ok {
		return "", "", fmt.Errorf("apt-cache depends %s names no kernel", kernelPackage)
	}
	version, err = currentVersion(ctx, name)
	return name, version, err
}

// newestCached returns the kernel that was put into the cache last.
func newestCached(cache string) (newest Kernel, ok bool) {
	var newestTime int64
	dirs, err := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	if err != nil {
		return Kernel{}, false
	}
	for _, dir := range dirs {
		kernel, err := openKernel(dir)
		if err != nil {
			continue
		}
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		if time := info.ModTime().UnixNano(); !ok || time > newestTime {
			newest, newestTime, ok = kernel, time, true
		}
	}
	return newest, ok
}

// openKernel finds the kernel in a directory that a kernel package was unpacked into. Of
// several it takes the last by name.
func openKernel(dir string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	for k := len(images) - 1; k >= 0; k-- {
		release := strings.TrimPrefix(filepath.Base(images[k]), "vmlinuz-")
		for _, lib := range []string{"lib", "usr/lib"} {
			modules := filepath.Join(dir, lib, "modules", release)
			if info, err := os.Stat(modules); err == nil && info.IsDir() {
				return Kernel{Release: release, Image: images[k], Modules: modules}, nil
			}
		}
	}
	return Kernel{}, fmt.Errorf("%s: no boot/vmlinuz-RELEASE with lib/modules/RELEASE beside it", dir)
}
