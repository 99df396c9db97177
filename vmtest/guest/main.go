// Command guest is init, process 1, of the virtual machines that vmtest boots. It does
// what the host asks, so that a test is written in one place, on the host.
//
//  1. It mounts /dev, /proc, /sys and /tmp (boot.go).
//  2. It loads the kernel modules below /modules, in the order of their names (boot.go).
//  3. It brings the loopback and the first network card up (network.go).
//  4. It prints READY on the console and takes steps from the second serial port, each in
//     a goroutine of its own (serve.go, steps.go).
//  5. The step Quit prints END on the console and resets the machine. Whatever else ends
//     the machine leaves END out, and the host takes that for a failure.
//
// When the kernel's command line names a root (Config.Root), init hands over to the system there
// after 2, and that system has this program run as a service (system.go).
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == step.UseMemory {
		fillMemory() // a process of its own, which useMemory has started
		return
	}
	if os.Getpid() != 1 {
		beService()
		return
	}
	if err := run(); err != nil {
		mark(step.Fail + " " + err.Error())
	}
	reset()
}

// run is the whole life of the guest.
func run() error {
	if err := mountSystem(); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if root, err := namedRoot(); err != nil || root != "" {
		return errors.Join(err, handOver(root))
	}
	if err := startNetwork(); err != nil {
		return err
	}
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		return err
	}
	mark(step.Ready)
	if err := serve(port); err != nil {
		return err
	}
	mark(step.End)
	return nil
}

// mark prints a line for the host on the console. Standard output will not do: it is
// closed when the kernel found no /dev/console.
func mark(text string) {
	console, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY, 0)
	if err != nil {
		return // without a console nobody hears why
	}
	defer console.Close()
	fmt.Fprintf(console, "\n%s%s\n", step.Mark, text)
	// Drained, so that a reset that follows does not swallow it. Failing that, the host
	// misses the mark and says so.
	_ = unix.IoctlSetInt(int(console.Fd()), unix.TCSBRK, 1)
}

// reset ends the machine without unmounting or flushing anything. It does not return.
func reset() {
	// QEMU runs with -no-reboot, so a reset ends it. When the write fails, init ends here
	// and the kernel's panic does the same.
	if os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0) == nil {
		select {} // another processor may be the one that resets
	}
	os.Exit(1)
}
