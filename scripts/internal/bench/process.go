package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// startNbdkit serves image by nbdkit's file plugin.
func startNbdkit(image string) (*process, error) {
	p := &process{socket: image + ".sock"}
	os.Remove(p.socket) // nbdkit leaves the last round's behind
	p.cmd = exec.Command("nbdkit", "--foreground", "--unix", p.socket, "file", image)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(p.socket); err == nil {
			return p, nil
		}
	}
	return nil, errors.Join(errors.New("nbdkit: not ready"), p.cmd.Process.Kill())
}

// uri is the default export on the socket.
func (p *process) uri() string { return "nbd+unix:///?socket=" + p.socket }

// cpu is what the process has used so far (user and system), by /proc/PID/stat.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field, the name, may hold spaces; fields 14 and 15 count from the first.
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("can't read /proc/PID/stat: %q", stat)
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	const tick = time.Second / 100 // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, nil
}

// stop ends the process in order and returns all the CPU time it has used.
func (p *process) stop() (time.Duration, error) {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	if err := p.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error says that it has ended already
	p.cmd.Wait()         // an error says that it was killed
}
