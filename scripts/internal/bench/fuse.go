package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fuse is an export as a file, by nbdfuse. The kernel keeps what was read, as it does of any disk,
// but no write: each is a request, of up to 1 MiB, and the program waits for its end. It lets one
// write of a file go at a time, whoever sends it.
type fuse struct {
	path string // of the file
	dir  string // where it is mounted
	cmd  *exec.Cmd
}

// mountFuse makes the export at uri a file below dir.
func mountFuse(dir, uri string) (*fuse, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	m := &fuse{dir: dir, path: filepath.Join(dir, "disk")}
	pid := dir + ".pid"
	if err := os.RemoveAll(pid); err != nil {
		return nil, err
	}
	m.cmd = exec.Command("nbdfuse", "-P", pid, m.path, uri)
	m.cmd.Stderr = os.Stderr
	// When we are killed it unmounts.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("nbdfuse: %w", err)
	}
	if err := awaitFile(pid); err != nil {
		return nil, errors.Join(fmt.Errorf("nbdfuse: %w", err), m.cmd.Process.Kill(), m.cmd.Wait())
	}
	return m, nil
}

// unmount takes the file away.
func (m *fuse) unmount() error {
	if err := unix.Unmount(m.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return m.cmd.Wait()
}

// The slow disk: every read, write and zeroing of a file takes so much longer than the file itself
// takes. Flushes take as long as the file's.
const slowBy = time.Millisecond

// slowFile is a file as a slow disk:
//
//	server → file (FUSE) → nbdfuse → NBD → nbdkit, delay filter → file
type slowFile struct {
	*fuse
	server *process
}

// slow makes the file at path a slow one.
func (c *config) slow(path string) (*slowFile, error) {
	socket := path + ".slow"
	delay := fmt.Sprintf("delay=%dms", slowBy.Milliseconds())
	server, err := startPeer(socket, "nbdkit", "--foreground", "--unix", socket, "--filter=delay", "file", path, "r"+delay, "w"+delay)
	if err != nil {
		return nil, err
	}
	m, err := mountFuse(path+".mnt", server.uri())
	if err != nil {
		server.kill()
		return nil, err
	}
	s := &slowFile{fuse: m, server: server}
	if err := s.check(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// check fails if anything but the disk takes a write: then servers would not be measured on a slow
// disk.
func (s *slowFile) check() error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	if _, err := f.ReadAt(block, 0); err != nil {
		return err
	}
	const n = 8
	began := time.Now()
	for range n {
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
	}
	if took := time.Since(began); took < n*slowBy {
		return fmt.Errorf("the slow disk is not: %d writes took %v", n, took)
	}
	return nil
}

// close takes it away.
func (s *slowFile) close() error {
	err := s.unmount()
	return errors.Join(err, s.server.stop())
}

// place is where a server finds its disk, and clients the server.
type place struct {
	disk    string
	journal string // of a server of ours, if it does not lie beside the disk
	socket  string
	slow    []*slowFile
}

// place makes the disk at path what a race needs: as it is, or slow, and its journal with it.
func (c *config) place(path string, slow bool) (_ *place, err error) {
	p := &place{disk: path, socket: path + ".sock"}
	if !slow {
		return p, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	p.disk, err = p.addSlow(c, path)
	if err != nil {
		return p, err
	}
	if _, err := os.Stat(path + ".jnbd"); !errors.Is(err, fs.ErrNotExist) {
		p.journal, err = p.addSlow(c, path+".jnbd")
		return p, err
	}
	return p, nil
}

func (p *place) addSlow(c *config, path string) (string, error) {
	s, err := c.slow(path)
	if err != nil {
		return "", err
	}
	p.slow = append(p.slow, s)
	return s.path, nil
}

func (p *place) close() error {
	var all []error
	for _, s := range p.slow {
		all = append(all, s.close())
	}
	return errors.Join(all...)
}
