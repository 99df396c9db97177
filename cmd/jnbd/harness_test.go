package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"jnbd/testtool"
)

// startTimeout is how long a server may take to be ready. It is only met when it hangs.
const startTimeout = 60 * time.Second

// builtBinary is the real jnbd, built once for all tests that want it.
var builtBinary struct {
	once sync.Once
	dir  string
	err  error
}

// realBinary is the path of the real jnbd: static, as users get it, and without the race
// detector.
func realBinary(t *testing.T) string {
	t.Helper()
	b := &builtBinary
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "jnbd-test-"); b.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(b.dir, "jnbd"), ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "jnbd")
}

func removeBinary() {
	if builtBinary.dir != "" {
		os.RemoveAll(builtBinary.dir)
	}
}

// requireTools is testtool.Need.
func requireTools(t *testing.T, names ...string) {
	t.Helper()
	testtool.Need(t, names...)
}

// server is a jnbd process that serves.
type server struct {
	uri    string
	cmd    *exec.Cmd
	stderr *bytes.Buffer // read it only after the process has ended
}

// startServer runs "jnbd serve" and waits until it is ready. Its disk and socket are
// gone with the test; a server that still runs then is killed.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s, err := tryStartServer(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryStartServer(t *testing.T, args ...string) (*server, error) {
	t.Helper()
	s := newServer(t, append([]string{"serve"}, args...)...)
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.start(t); err != nil {
		return nil, err
	}
	line := make(chan string, 1)
	go func() { // ends with the process's stdout
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		if s.uri = strings.TrimSpace(text); s.uri != "" {
			return s, nil
		}
		err := s.cmd.Wait()
		return nil, fmt.Errorf("serve %v: %w\n%s", args, err, s.stderr)
	case <-time.After(startTimeout):
		s.cmd.Process.Kill()
		return nil, fmt.Errorf("serve %v: not ready after %s", args, startTimeout)
	}
}

// startUnready starts a jnbd process, and does not wait for anything. Without a command
// it is serve.
func startUnready(t *testing.T, diskPath string, command ...string) (*server, error) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"serve"}
	}
	s := newServer(t, append(command, diskPath)...)
	return s, s.start(t)
}

func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(realBinary(t), args...), stderr: &bytes.Buffer{}}
	s.cmd.Stderr = s.stderr
	// The kernel ends it with us, even if the test binary is killed by its timeout.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return s
}

func (s *server) start(t *testing.T) error {
	t.Cleanup(func() {
		if s.cmd.Process != nil {
			s.cmd.Process.Kill()
		}
	})
	return s.cmd.Start()
}

// kill is kill -9.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait() // an error says that it was killed
}

// stop is SIGTERM: the process must checkpoint and exit with 0.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, s.stderr)
	}
}

// runJnbd runs a command of the real binary and returns its stdout. It must exit with code.
func runJnbd(t *testing.T, code int, args ...string) string {
	t.Helper()
	cmd := exec.Command(realBinary(t), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("jnbd %v exited with %d, want %d\n%s%s", args, got, code, &stdout, &stderr)
	}
	return stdout.String()
}

// tool runs another program, which must succeed, and returns what it printed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir() // fio leaves a file where it stands
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
