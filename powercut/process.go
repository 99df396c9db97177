package powercut

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// commandTimeout is met only by a jnbd that hangs.
const commandTimeout = 2 * time.Minute

// server is a jnbd that serves, in a process of its own or in this one.
type server interface {
	// socket is where it listens.
	socket() string
	// kill ends it as kill -9 does: when it returns, nothing of it happens any more.
	kill() error
	// stop ends it in order.
	stop() error
}

// program is the path of a jnbd.
type program string

// run is one command that ends by itself. It returns the exit code and all that was printed.
func (jnbd program) run(args ...string) (code int, output []byte, err error) {
	cmd := exec.Command(string(jnbd), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	hung := time.AfterFunc(commandTimeout, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	var failed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &failed) {
		return 0, nil, err
	}
	return cmd.ProcessState.ExitCode(), out.Bytes(), nil
}

// must is run with exit code 0.
func (jnbd program) must(args ...string) error {
	code, out, err := jnbd.run(args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, bytes.TrimSpace(out))
	}
	if err != nil {
		return fmt.Errorf("jnbd %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// process is `jnbd serve`.
type process struct {
	cmd    *exec.Cmd
	listen string
	stderr bytes.Buffer // read it only after the process has ended
}

// serve starts jnbd on a disk and waits until it is ready.
func (jnbd program) serve(disk, socket string, args ...string) (*process, error) {
	args = append([]string{"serve", disk, "-U", socket}, args...)
	p := &process{cmd: exec.Command(string(jnbd), args...), listen: socket}
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // never outlives us
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	hung := time.AfterFunc(commandTimeout, func() { _ = p.cmd.Process.Kill() })
	defer hung.Stop()
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	if readErr != nil || !strings.HasPrefix(line, "nbd+unix:") {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // said in its output
		return nil, fmt.Errorf("jnbd %s: not ready (%s): %s", strings.Join(args, " "), p.cmd.ProcessState, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return p, nil
}

func (p *process) socket() string { return p.listen }

func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = p.cmd.Wait() // says that it was killed
	if p.cmd.ProcessState.Exited() {
		return fmt.Errorf("jnbd had ended before it was killed (%s): %s", p.cmd.ProcessState, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return nil
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	hung := time.AfterFunc(commandTimeout, func() { _ = p.cmd.Process.Kill() })
	defer hung.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("jnbd serve after SIGTERM: %w: %s", err, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return nil
}
