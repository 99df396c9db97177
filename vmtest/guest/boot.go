package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountSystem mounts the kernel's own file systems.
func mountSystem() error {
	for _, m := range []struct{ kind, dir string }{
		{"devtmpfs", "/dev"},
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.dir, err)
		}
	}
	return nil
}

// loadModules loads the modules in dir. The host numbered them, a module after all those
// that it needs.
func loadModules(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	for _, path := range paths { // Glob sorts
		image, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := unix.InitModule(image, ""); err != nil {
			return fmt.Errorf("load module %s: %w", path, err)
		}
	}
	return nil
}
