package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/nbd"
)

// mountTimeout is met only by an nbdfuse that hangs.
const mountTimeout = 30 * time.Second

// mount is a recorder as a plain file:
//
//	jnbd → file (FUSE: every write goes through at once) → nbdfuse → NBD → recorder
//
// fdatasync arrives as FLUSH, a punched hole as TRIM. The kernel holds the file's lock over
// each write and each fsync, so writes never run beside a flush here; see inside.go.
type mount struct {
	path   string // of the file
	dir    string // where it is mounted
	server *nbd.Server
	served chan error // Serve's end
	fuse   *exec.Cmd
	ended  chan struct{} // closed when nbdfuse has ended
	stderr bytes.Buffer  // read it only after that
}

// canMount says why this host can't mount, or nil.
func canMount() error {
	if _, err := exec.LookPath("nbdfuse"); err != nil {
		return fmt.Errorf("nbdfuse is not installed (apt-get install libnbd-bin): %w", ErrUnavailable)
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	f.Close()
	if _, err := exec.LookPath("fusermount3"); err != nil && os.Geteuid() != 0 {
		return fmt.Errorf("neither root nor fusermount3 (apt-get install fuse3): %w", ErrUnavailable)
	}
	return nil
}

// newMount makes a device a file below dir, which must not exist.
func newMount(dev nbd.Device, dir string) (*mount, error) {
	if err := canMount(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	m := &mount{dir: filepath.Join(dir, "mnt"), served: make(chan error, 1), ended: make(chan struct{})}
	m.path = filepath.Join(m.dir, "disk")
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "recorder.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	m.server = &nbd.Server{Exports: []nbd.Export{{Name: "recorder", Device: dev}}}
	go func() { m.served <- m.server.Serve(listener) }() // ends with unmount

	pidFile := filepath.Join(dir, "nbdfuse.pid")
	m.fuse = exec.Command("nbdfuse", "-P", pidFile, m.path, "nbd+unix:///recorder?socket="+socket)
	m.fuse.Stderr = &m.stderr
	// When we are killed it unmounts.
	m.fuse.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := m.fuse.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("nbdfuse: %w", err), m.server.Close())
	}
	go func() { // ends with nbdfuse, which unmount waits for
		_ = m.fuse.Wait()
		close(m.ended)
	}()
	if err := m.waitReady(pidFile); err != nil {
		return nil, errors.Join(err, m.unmount())
	}
	return m, nil
}

// waitReady waits for the pid file, which nbdfuse writes when it has mounted.
func (m *mount) waitReady(pidFile string) error {
	timeout := time.After(mountTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(pidFile); err == nil {
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-tick.C:
		case <-m.ended:
			return fmt.Errorf("nbdfuse ended (%s): %w\n%s", m.fuse.ProcessState, ErrUnavailable, &m.stderr)
		case <-timeout:
			return fmt.Errorf("nbdfuse was not ready after %s", mountTimeout)
		}
	}
}

// unmount takes the file away and ends everything.
func (m *mount) unmount() error {
	err := m.umount()
	if err != nil {
		_ = m.fuse.Process.Kill() // it serves nothing any more
	}
	<-m.ended
	if errors.Is(err, unix.EINVAL) {
		err = nil // nbdfuse had ended, and with it the mount
	}
	ctx, cancel := context.WithTimeout(context.Background(), mountTimeout)
	defer cancel()
	if down := m.server.Shutdown(ctx); down != nil {
		err = errors.Join(err, down, m.server.Close())
	}
	if served := <-m.served; !errors.Is(served, nbd.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// umount is umount(8): root may, others ask fusermount3.
func (m *mount) umount() error {
	if os.Geteuid() == 0 {
		return unix.Unmount(m.dir, 0)
	}
	if out, err := exec.Command("fusermount3", "-u", m.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u %s: %w\n%s", m.dir, err, out)
	}
	return nil
}
