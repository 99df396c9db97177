package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal and a program on it.
type terminal struct {
	master, slave *os.File
	cmd           *exec.Cmd
	shown         bytes.Buffer // all that the program has written
}

// onTerminal runs the real binary on a terminal of 90 columns.
func onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	x := &terminal{master: master, slave: slave}
	x.resize(t, 90)
	x.cmd = exec.Command(realBinary(t), args...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.cmd.Process.Kill() })
	return x
}

func (x *terminal) resize(t *testing.T, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// modes are the terminal's settings.
func (x *terminal) modes(t *testing.T) unix.Termios {
	t.Helper()
	modes, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *modes
}

// await reads until the program has written text, from what it writes from now on.
func (x *terminal) await(t *testing.T, text string) {
	t.Helper()
	from := x.shown.Len()
	deadline := time.Now().Add(startTimeout)
	for !strings.Contains(string(x.shown.Bytes()[from:]), text) {
		ready := []unix.PollFd{{Fd: int32(x.master.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, int(time.Until(deadline).Milliseconds())); err != nil && err != unix.EINTR || n == 0 {
			t.Fatalf("%q was not shown (%v); what was:\n%q", text, err, x.shown.Bytes()[from:])
		}
		b := make([]byte, 4096)
		n, err := unix.Read(int(x.master.Fd()), b)
		if err != nil && err != unix.EINTR {
			t.Fatalf("%q was not shown before the end (%v); what was:\n%q", text, err, x.shown.Bytes()[from:])
		}
		x.shown.Write(b[:max(0, n)])
	}
}

func (x *terminal) press(t *testing.T, key string) {
	t.Helper()
	if _, err := x.master.WriteString(key); err != nil {
		t.Fatal(err)
	}
}

// TestTop: on a terminal top draws again and again, follows keys, size and the server's end and
// return, and leaves the terminal as it was.
func TestTop(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.img"), filepath.Join(dir, "second.img")
	serve := []string{first, second, "--size", "16M", "--journal-size", "64M"}
	s := startServer(t, serve...)
	x := onTerminal(t, "top", first, "--interval", "100ms")
	before := x.modes(t)
	x.await(t, screenOn)
	x.await(t, "first.img  16.0 MiB  auto")
	if x.modes(t) == before {
		t.Error("the terminal is not raw: keys would be shown, and wait for the enter key")
	}
	c := mustDial(t, s.uri)
	if err := c.write(0, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	x.await(t, "1 client ")
	x.await(t, "since the start)")
	x.press(t, "\t")
	x.await(t, "second.img  16.0 MiB")
	x.press(t, "\t")
	x.await(t, "first.img")
	x.resize(t, 120)
	x.await(t, strings.Repeat("·", 110)) // the ring is as wide as the terminal

	s.kill()
	x.await(t, "no server is listening; waiting for it")
	s = startServer(t, serve...)
	x.await(t, "0 clients")
	x.press(t, "q")
	x.await(t, screenOff)
	if err := x.cmd.Wait(); err != nil {
		t.Errorf("after q: %v", err)
	}
	if x.modes(t) != before {
		t.Error("the terminal is not as it was")
	}

	x = onTerminal(t, "top", s.uri)
	x.await(t, "first.img")
	x.press(t, "\x03") // Ctrl-C
	x.await(t, screenOff)
	x.cmd.Wait() // its code is looked at
	if code := x.cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("after Ctrl-C it exits with %d, want %d", code, exitInterrupted)
	}
	s.stop(t)
}
