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
	qemuRaw     server = "qemu-nbd raw"
	qemuQcow2   server = "qemu-nbd qcow2"
)

// peers are all servers that are not ours.
var peers = []server{nbdkitFile, qemuRaw, qemuQcow2}

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
		if _, err := os.Stat(path); err == nil {
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
	if s == qemuQcow2 {
		return path, toQcow2(path)
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
	socket := path + ".sock"
	switch s {
	case qemuRaw:
		return startPeer(socket, "qemu-nbd", "--socket", socket, "--format", "raw", "--shared", "16", "--persistent", path)
	case qemuQcow2:
		return startPeer(socket, "qemu-nbd", "--socket", socket, "--format", "qcow2", "--shared", "16", "--persistent", path)
	}
	return startPeer(socket, "nbdkit", "--foreground", "--unix", socket, "file", path)
}

// toQcow2 makes the raw image at path one of qcow2 with the same content, in the page cache.
func toQcow2(path string) error {
	made := path + ".new"
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, made).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w\n%s", err, out)
	}
	return os.Rename(made, path)
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
	// In single blocks: larger pieces lie in the page cache whole, and the kernel then counts
	// all of one as written for each block of it.
	piece := make([]byte, 4<<10)
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
	for _, cmd := range [][]string{{c.jnbd, "version"}, {"nbdkit", "--version"}, {"qemu-nbd", "--version"}, {"fio", "--version"}, {"uname", "-sr"}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			line = filepath.Base(cmd[0]) + ": not there"
		}
		all = append(all, line)
	}
	return all
}
