package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// namedRoot is the device that the kernel's command line names as the root of a whole system,
// "" for none.
func namedRoot() (string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for word := range strings.FieldsSeq(string(line)) {
		if device, ok := strings.CutPrefix(word, step.RootOption); ok {
			return device, nil
		}
	}
	return "", nil
}

// handOver makes the file system on device the root and runs its init in place of this program.
// It does not return but for an error.
func handOver(device string) error {
	const root = "/system"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, root, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("run the system's init: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"TERM=dumb"}))
}

// beService takes steps as a service of a whole system, until that stops it.
func beService() {
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, unix.SIGTERM)
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		mark(step.Fail + " " + err.Error())
		return
	}
	failed := make(chan error, 1)
	go func() { failed <- serve(port) }() // ends with the process
	mark(step.Ready)
	select {
	case <-stopped:
		mark(step.End)
	case err := <-failed:
		mark(fmt.Sprintf("%s %v", step.Fail, err))
	}
}
