package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runChild is the command of serve --run.
type runChild struct {
	pid   int           // what to signal: the process, or minus its group
	ended chan int      // its exit code, once; buffered
	gone  chan struct{} // closed when it has ended
}

// startChild runs the command by sh, with the address of the disk in its environment:
// uri, unixsocket (empty for TCP) and nbd (the form of older qemu tools).
func startChild(command, uri string, l net.Listener) (*runChild, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	socket, legacy := "", "nbd:"+l.Addr().String()
	if l.Addr().Network() == "unix" {
		socket = l.Addr().String()
		legacy = "nbd:unix:" + socket
	}
	// A group of its own: a stop ends what the shell has started, too. On a terminal it stays
	// in ours, or it could not read what is typed.
	group := !isTerminal(os.Stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group}
	cmd.Env = append(os.Environ(), "uri="+uri, "unixsocket="+socket, "nbd="+legacy)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("--run: %w", err)
	}
	child := &runChild{pid: cmd.Process.Pid, ended: make(chan int, 1), gone: make(chan struct{})}
	if group {
		child.pid = -child.pid
	}
	go func() { // ends with the command; stop waits
		child.ended <- exitOf(cmd.Wait())
		close(child.gone)
	}()
	return child, nil
}

// done delivers the command's exit code when it ends. Without a command it never does.
func (c *runChild) done() <-chan int {
	if c == nil {
		return nil
	}
	return c.ended
}

// childTimeout is how long the command may take to end when jnbd stops.
const childTimeout = 10 * time.Second

// stop ends the command with all that it started, if it still runs, and waits for it: with
// SIGTERM, and after childTimeout with SIGKILL.
func (c *runChild) stop() {
	select {
	case <-c.gone:
		return
	default:
	}
	_ = syscall.Kill(c.pid, syscall.SIGTERM) // it may have ended by now
	select {
	case <-c.gone:
	case <-time.After(childTimeout):
		_ = syscall.Kill(c.pid, syscall.SIGKILL)
		<-c.gone
	}
}

// exitOf is a command's exit code as the shell counts it: 128 and the signal if one
// ended it.
func exitOf(err error) int {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &failed):
		return exitFailed
	}
	if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return failed.ExitCode()
}

// exitWithParent makes the kernel send SIGTERM when the parent process ends. The wish
// belongs to the calling thread, so that thread is kept for the rest of the process.
func exitWithParent() error {
	parent := os.Getppid()
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("--exit-with-parent: %w", err)
	}
	if os.Getppid() != parent {
		return errors.New("--exit-with-parent: the parent has ended already")
	}
	return nil
}
