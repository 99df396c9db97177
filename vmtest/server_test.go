package vmtest

import (
	"bufio"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// serverLife bounds how long a server may take to be ready, and to end.
const serverLife = 30 * time.Second

// server is jnbd on the host, on a TCP port of the loopback.
type server struct {
	t     *testing.T
	port  int
	cmd   *exec.Cmd
	log   *firstWords
	ended chan struct{} // closed when it has ended
	err   error         // how; read only after ended
}

// modes are what every promise to a kernel must hold in.
var modes = []string{"data", "ordered", "auto"}

// serve starts jnbd on a disk of size bytes, with the given flags, and waits until it is
// ready, which it says in one line. A server that still runs when the test ends is killed.
func serve(t *testing.T, disk string, size int64, port int, flags ...string) *server {
	t.Helper()
	return serveAs(t, theWorld(t).jnbd, disk, size, port, flags...)
}

// serveAs is serve by another build of jnbd.
func serveAs(t *testing.T, program, disk string, size int64, port int, flags ...string) *server {
	t.Helper()
	args := append([]string{
		"serve", disk, "--size", strconv.FormatInt(size>>20, 10) + "M",
		"-i", "127.0.0.1", "-p", strconv.Itoa(port),
	}, flags...)
	s := &server{
		t:     t,
		port:  port,
		cmd:   exec.Command(program, args...),
		log:   &firstWords{},
		ended: make(chan struct{}),
	}
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // as for QEMU
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1)
	// Ends with the server.
	go func() {
		defer close(s.ended)
		lines := bufio.NewReader(stdout)
		_, err := lines.ReadString('\n')
		ready <- err
		_, copyErr := lines.WriteTo(s.log)
		s.err = errors.Join(s.cmd.Wait(), copyErr)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("log of jnbd on port %d:\n%s", port, s.log)
		}
	})
	select {
	case err := <-ready:
		if err != nil {
			s.kill()
			t.Fatalf("jnbd ended before it was ready: %v\n%s", s.err, s.log)
		}
	case <-time.After(serverLife):
		t.Fatalf("jnbd is not ready after %v", serverLife)
	}
	return s
}

// kill ends the server with SIGKILL, unless it has ended.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // the only error is that it has ended
	<-s.ended
}

// signal sends a signal that does not end the server.
func (s *server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatalf("send %v to jnbd: %v\n%s", signal, err, s.log)
	}
}

// stop ends the server in order, which it must do with exit code 0.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("stop jnbd: %v\n%s", err, s.log)
	}
	select {
	case <-s.ended:
	case <-time.After(serverLife):
		s.t.Fatalf("jnbd is still there %v after SIGTERM\n%s", serverLife, s.log)
	}
	if s.err != nil {
		s.t.Fatalf("jnbd after SIGTERM: %v\n%s", s.err, s.log)
	}
}

// freePort returns a TCP port of the loopback that nobody listens on. Somebody else may
// take it before the server does; then serve fails.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// jnbd runs a subcommand on the host, which must exit with 0.
func jnbd(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(theWorld(t).jnbd, args...).CombinedOutput(); err != nil {
		t.Fatalf("jnbd %v: %v\n%s", args, err, out)
	}
}

// mustHoldRaw checks the disk and closes it, and then wants the files in the raw image.
func mustHoldRaw(t *testing.T, disk, dir string, want map[string]step.File) {
	t.Helper()
	jnbd(t, "check", disk)
	jnbd(t, "close", disk)
	mustHoldImage(t, disk, dir, want)
}

// mustHoldImage looks at a raw image without jnbd and without a kernel: ext4's own checker
// must find nothing, and the directory dir in it must hold the files of want.
func mustHoldImage(t *testing.T, disk, dir string, want map[string]step.File) {
	t.Helper()
	hostRun(t, "e2fsck", "-fn", disk)
	dumped := t.TempDir()
	hostRun(t, "debugfs", "-R", "rdump "+dir+" "+dumped, disk)
	files, err := step.Walk(filepath.Join(dumped, dir))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, byName(files), want)
}

// hostRun runs a program of the host, which must exit with 0.
func hostRun(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := findProgram(name)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
