package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server under measurement.
type process struct {
	cmd    *exec.Cmd
	socket string
}

// readyTimeout is met only by a server that hangs.
const readyTimeout = 2 * time.Minute

// startJnbd serves disk and returns when it is ready, with the time that took.
func (c *config) startJnbd(disk string, args ...string) (*process, time.Duration, error) {
	p := &process{socket: disk + ".sock"}
	p.cmd = exec.Command(c.jnbd, append([]string{"serve", disk, "-U", p.socket, "--log-level", "warn"}, args...)...)
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, 0, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	took := time.Since(began)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("jnbd serve: %w", err), p.cmd.Wait())
	}
	if !strings.HasPrefix(line, "nbd+unix://") {
		return nil, 0, fmt.Errorf("jnbd serve said %q, want a URI", line)
	}
	go io.Copy(io.Discard, stdout) // ends with the process
	return p, took, nil
}

// startPeer starts a server that makes a unix socket when it is ready.
func startPeer(socket, name string, args ...string) (*process, error) {
	if err := os.RemoveAll(socket); err != nil { // the last round's
		return nil, err
	}
	p := &process{socket: socket, cmd: exec.Command(name, args...)}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return p, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("%s: not ready", name), p.cmd.Process.Kill())
}

// uri is the default export on the socket.
func (p *process) uri() string { return "nbd+unix:///?socket=" + p.socket }

// use is what a process has used so far.
type use struct {
	cpu     time.Duration // user and system
	written int64         // bytes that it had the kernel write to disks
}

// use is what the process, and the children that it forks for clients, have used so far.
func (p *process) use() (use, error) {
	total, err := useOf(p.cmd.Process.Pid)
	if err != nil {
		return use{}, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	if err != nil {
		return total, nil // a kernel without that file; then only ended children count
	}
	for _, child := range strings.Fields(string(text)) {
		var pid int
		if _, err := fmt.Sscan(child, &pid); err != nil {
			return use{}, err
		}
		if u, err := useOf(pid); err == nil { // else it has just ended
			total.cpu += u.cpu
			total.written += u.written
		}
	}
	return total, nil
}

// useOf reads /proc/PID/stat and /proc/PID/io.
func useOf(pid int) (use, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return use{}, err
	}
	// The second field, the name, may hold spaces; fields 14 to 17 count from the first. The
	// last two are of children that have ended.
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return use{}, fmt.Errorf("can't read /proc/PID/stat: %q", stat)
	}
	var ticks int64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return use{}, fmt.Errorf("can't read /proc/PID/stat: %w", err)
		}
		ticks += n
	}
	const tick = time.Second / 100 // USER_HZ is 100 on every Linux that Go runs on
	u := use{cpu: time.Duration(ticks) * tick}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return use{}, err
	}
	for line := range strings.Lines(string(io)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			if u.written, err = strconv.ParseInt(strings.TrimSpace(n), 10, 64); err != nil {
				return use{}, fmt.Errorf("can't read /proc/PID/io: %w", err)
			}
		}
	}
	return u, nil
}

// stop ends the process in order.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := p.cmd.Wait()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil // a peer's way to end
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	return nil
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error says that it has ended already
	p.cmd.Wait()         // an error says that it was killed
}
