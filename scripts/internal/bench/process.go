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
	pid    int
	cmd    *exec.Cmd // nil: a daemon that is not our child
	socket string
	export string
	ended  bool // a daemon's end was seen: its number may be another's by now

	certificates string // directory with what a client must show; "" without TLS
}

// readyTimeout is met only by a server that hangs.
const readyTimeout = 2 * time.Minute

// startJnbd serves a disk and returns when it is ready, with the time that took.
func (c *config) startJnbd(at *place, args ...string) (*process, time.Duration, error) {
	return startBuild(c.jnbd, at, args...)
}

// startBuild is startJnbd of a build.
func startBuild(jnbd string, at *place, args ...string) (*process, time.Duration, error) {
	p := &process{socket: at.socket}
	p.cmd = exec.Command(jnbd, append([]string{"serve", at.disk, "-U", p.socket, "--log-level", "error"}, args...)...)
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, 0, err
	}
	p.pid = p.cmd.Process.Pid
	line, err := bufio.NewReader(stdout).ReadString('\n')
	took := time.Since(began)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("jnbd serve: %w", err), p.cmd.Wait())
	}
	if !strings.HasPrefix(line, "nbd+unix://") && !strings.HasPrefix(line, "nbds+unix://") {
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
	p.pid = p.cmd.Process.Pid
	if err := awaitFile(socket); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), p.cmd.Process.Kill())
	}
	return p, nil
}

// awaitFile returns when there is a file of this name.
func awaitFile(path string) error {
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	return fmt.Errorf("not ready: there is no %s", path)
}

// uri is the export on the socket.
func (p *process) uri() string {
	if p.certificates != "" {
		return "nbds+unix:///" + p.export + "?socket=" + p.socket + "&tls-certificates=" + p.certificates
	}
	return "nbd+unix:///" + p.export + "?socket=" + p.socket
}

// cpu is processor time.
type cpu struct{ user, system time.Duration }

func (c cpu) total() time.Duration { return c.user + c.system }
func (c cpu) plus(d cpu) cpu       { return cpu{c.user + d.user, c.system + d.system} }
func (c cpu) minus(d cpu) cpu      { return cpu{c.user - d.user, c.system - d.system} }

// use is what a process has used so far.
type use struct {
	cpu
	written int64 // bytes that it had the kernel write to disks
	peak    int64 // bytes of memory that were resident at once
}

// use is what the process, and the children that it forks for clients, have used so far. Of
// children that have ended it knows all but the peak.
func (p *process) use() (use, error) {
	total, err := useOf(p.pid)
	if err != nil {
		return use{}, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.pid, p.pid))
	if err != nil {
		return total, nil // a kernel without that file; then only ended children count
	}
	for _, child := range strings.Fields(string(text)) {
		var pid int
		if _, err := fmt.Sscan(child, &pid); err != nil {
			return use{}, err
		}
		if u, err := useOf(pid); err == nil { // else it has just ended
			total.cpu = total.plus(u.cpu)
			total.written += u.written
			total.peak += u.peak
		}
	}
	return total, nil
}

// useOf reads /proc/PID/stat, /proc/PID/io and /proc/PID/status.
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
	var ticks [4]time.Duration
	for i, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return use{}, fmt.Errorf("can't read /proc/PID/stat: %w", err)
		}
		ticks[i] = time.Duration(n)
	}
	const tick = time.Second / 100 // USER_HZ is 100 on every Linux that Go runs on
	u := use{cpu: cpu{user: (ticks[0] + ticks[2]) * tick, system: (ticks[1] + ticks[3]) * tick}}
	if u.written, err = numberAfter(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:"); err != nil {
		return use{}, err
	}
	peak, err := numberAfter(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
	u.peak = peak << 10
	return u, err
}

// numberAfter reads the number behind a word at the beginning of a line; no such line is 0.
func numberAfter(path, word string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, word); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("can't read %s: %w", path, err)
			}
			return n, nil
		}
	}
	return 0, nil
}

// watchPeak looks at the memory of the process and its children until done is closed: a child
// that ends takes what it knows of its own with it.
func (p *process) watchPeak(done <-chan struct{}) int64 {
	var peak int64
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if u, err := p.use(); err == nil {
			peak = max(peak, u.peak)
		}
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
	}
}

// stop ends the process in order.
func (p *process) stop() error {
	if p.cmd == nil {
		if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil {
			return err
		}
		return p.awaitEnd()
	}
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

// awaitEnd returns when a daemon is gone.
func (p *process) awaitEnd() error {
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if _, state, _ := strings.Cut(string(stat), ") "); err != nil || strings.HasPrefix(state, "Z") {
			p.ended = true
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

// kill is kill -9. It may be called of a process that has ended.
func (p *process) kill() {
	if p.cmd == nil {
		if p.ended {
			return
		}
		syscall.Kill(p.pid, syscall.SIGKILL) // an error says that it has ended already
		return
	}
	p.cmd.Process.Kill() // an error says that it has ended already
	p.cmd.Wait()         // an error says that it was killed
}
