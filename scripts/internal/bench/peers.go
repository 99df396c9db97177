package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// server is a program and how it is set up.
type server string

const (
	jnbdAuto    server = "jnbd auto"
	jnbdOrdered server = "jnbd ordered"
	jnbdData    server = "jnbd data"
	nbdkitFile  server = "nbdkit file"
)

func (s server) isOurs() bool { return strings.HasPrefix(string(s), "jnbd ") }

// mode is jnbd's mode.
func (s server) mode() string { return strings.TrimPrefix(string(s), "jnbd ") }

// imageKind is what a disk holds when a round begins.
type imageKind int

const (
	sparseImage imageKind = iota // nothing; made anew for each round
	wholeImage                   // every block written, in the page cache; made once
)

// prepare makes the disk that a round of s needs, and returns its path. createArgs go to jnbd
// create.
func (c *config) prepare(s server, kind imageKind, createArgs ...string) (string, error) {
	name := strings.ReplaceAll(strings.Join(append([]string{string(s)}, createArgs...), ""), " ", "-")
	path := filepath.Join(c.dir, name+".img")
	if kind == wholeImage {
		if info, err := os.Stat(path); err == nil && info.Size() == c.diskBytes {
			return path, nil
		}
	}
	for _, old := range []string{path, path + ".jnbd"} {
		if err := os.RemoveAll(old); err != nil {
			return "", err
		}
	}
	if kind == wholeImage {
		if err := writeImage(path, c.diskBytes); err != nil {
			return "", err
		}
	} else if err := makeSparse(path, c.diskBytes); err != nil {
		return "", err
	}
	if !s.isOurs() {
		return path, nil
	}
	if out, err := exec.Command(c.jnbd, append([]string{"create", path, "--mode", s.mode()}, createArgs...)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("jnbd create: %w\n%s", err, out)
	}
	return path, nil
}

// discard removes what prepare made for a kind that is made anew each time.
func (c *config) discard(path string, kind imageKind) error {
	if kind == wholeImage {
		return nil
	}
	for _, old := range []string{path, path + ".jnbd"} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	return nil
}

// start serves the disk at path.
func (c *config) start(s server, path string) (*process, error) {
	if s.isOurs() {
		p, _, err := c.startJnbd(path)
		return p, err
	}
	return startNbdkit(path)
}

func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// writeImage makes a whole image: every block allocated, none of it zeros, all of it in the
// page cache and on the medium.
func writeImage(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(1 + i%251)
	}
	for off := int64(0); off < size; off += int64(len(piece)) {
		if _, err := f.WriteAt(piece[:min(int64(len(piece)), size-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// versions says which programs were measured.
func (c *config) versions() []string {
	var all []string
	for _, cmd := range [][]string{{c.jnbd, "version"}, {"nbdkit", "--version"}, {"fio", "--version"}, {"uname", "-sr"}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			line = filepath.Base(cmd[0]) + ": not there"
		}
		all = append(all, line)
	}
	return all
}
