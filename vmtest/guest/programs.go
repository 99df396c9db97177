package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// environment is what every program gets. The initramfs keeps all libraries in one place.
var environment = []string{"PATH=/bin", "LD_LIBRARY_PATH=/lib/programs", "HOME=/tmp", "TMPDIR=/tmp"}

// programs holds what was started and not yet stopped.
type programs struct {
	mu      sync.Mutex
	running map[int]*program // by process id
}

// program is one that runs beside the steps.
type program struct {
	cmd    *exec.Cmd
	output *tail         // what it printed, both streams
	notify *notifySocket // nil if it has none
	ended  chan struct{} // closed when it has ended and output is whole
	err    error         // what Wait said; read only after ended
}

// run runs a program to its end. A failed program is an answer, not an error.
func (p *programs) run(args []string) (step.Answer, error) {
	cmd, err := command(args)
	if err != nil {
		return step.Answer{}, err
	}
	out, err := cmd.CombinedOutput()
	return outcome(cmd, step.Tail(out), err)
}

// start starts a program and waits for the first line on its standard output, its sign
// that it is ready. One that ends without a line is an error that holds what it said. With
// notify it has a NOTIFY_SOCKET until it ends.
func (p *programs) start(args []string, notify bool) (step.Answer, error) {
	cmd, err := command(args)
	if err != nil {
		return step.Answer{}, err
	}
	started := &program{cmd: cmd, output: &tail{}, ended: make(chan struct{})}
	if notify {
		if started.notify, err = listenNotify(); err != nil {
			return step.Answer{}, err
		}
		cmd.Env = append(slices.Clone(cmd.Env), "NOTIFY_SOCKET="+started.notify.address())
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		started.notify.close()
		return step.Answer{}, err
	}
	cmd.Stdout = writer
	cmd.Stderr = started.output
	err = cmd.Start()
	writer.Close()
	if err != nil {
		reader.Close()
		started.notify.close()
		return step.Answer{}, fmt.Errorf("start %s: %w", args[0], err)
	}
	first := make(chan step.Answer, 1)
	var heardErr error // read only after first
	// Ends when the program has ended, and with it the pipe.
	go func() {
		defer close(started.ended)
		defer started.notify.close()
		defer reader.Close()
		stdout := bufio.NewReader(reader)
		if line, err := stdout.ReadString('\n'); err == nil {
			answer := step.Answer{Out: line, PID: cmd.Process.Pid}
			// Here, because a program may end at once, and its socket with it.
			answer.Notified, heardErr = started.notify.heard()
			first <- answer
		}
		close(first)
		io.Copy(started.output, stdout)
		started.err = cmd.Wait()
	}()
	answer, ok := <-first
	if !ok {
		<-started.ended
		return step.Answer{}, fmt.Errorf("%s ended before it was ready (%v): %s", args[0], started.err, started.output)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = make(map[int]*program)
	}
	p.running[cmd.Process.Pid] = started
	return answer, heardErr
}

// stop sends a signal to a program that start started, and waits for its end.
func (p *programs) stop(pid int, signal unix.Signal) (step.Answer, error) {
	p.mu.Lock()
	stopped := p.running[pid]
	delete(p.running, pid)
	p.mu.Unlock()
	if stopped == nil {
		return step.Answer{}, fmt.Errorf("stop process %d: it was not started here", pid)
	}
	if err := stopped.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return step.Answer{}, fmt.Errorf("send %v to process %d: %w", signal, pid, err)
	}
	<-stopped.ended
	return outcome(stopped.cmd, stopped.output.String(), stopped.err)
}

// command is the program args[0] in /bin, with the rest of args.
func command(args []string) (*exec.Cmd, error) {
	if len(args) == 0 {
		return nil, errors.New("a program without a name")
	}
	return &exec.Cmd{
		Path: "/bin/" + args[0],
		Args: args,
		Env:  environment,
		Dir:  "/tmp",
		// A program that leaves a daemon behind must not keep its step waiting for
		// the daemon to close the output.
		WaitDelay: 2 * time.Second,
	}, nil
}

// outcome turns the end of a program into an answer.
func outcome(cmd *exec.Cmd, out string, err error) (step.Answer, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return step.Answer{}, fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	return step.Answer{Out: out, Code: cmd.ProcessState.ExitCode()}, nil
}

// tail keeps the last step.MaxOutput bytes that were written to it.
type tail struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept.Write(p)
	if over := t.kept.Len() - step.MaxOutput; over > 0 {
		t.kept.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept.String()
}
