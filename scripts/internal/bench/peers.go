package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// server is a program and how it is set up.
type server string

const (
	jnbdAuto       server = "jnbd auto" // its log is the default's
	jnbdLasting           = jnbdAuto + logLasts
	jnbdFull              = jnbdAuto + logFull
	jnbdInside            = jnbdAuto + inside
	jnbdLastInside        = jnbdLasting + inside
	jnbdFullInside        = jnbdFull + inside

	jnbdOrdered server = "jnbd ordered"
	jnbdData    server = "jnbd data"
	nbdkitFile  server = "nbdkit file"
	qemuRaw     server = "qemu-nbd raw"
	qemuQcow2   server = "qemu-nbd qcow2"
	nbdServer   server = "nbd-server"
	nullServer  server = "null server" // the floor: nullserver.go
)

// What a server of ours has other than by default.
const (
	logLasts     = ", log lasts"    // it does not fill while it is measured
	logFull      = ", log full"     // it is so small that it soon is
	inside       = ", inside"       // its journal lies inside the disk
	preallocated = ", preallocated" // its spare area was written when it was made
	otherOne     = ", before"       // it is the build of -before
)

// peers are all servers that are not ours.
var peers = []server{nbdkitFile, qemuRaw, qemuQcow2, nbdServer}

func (s server) isOurs() bool { return strings.HasPrefix(string(s), "jnbd ") }

func (s server) isBefore() bool { return strings.HasSuffix(string(s), otherOne) }

func (s server) isPeer() bool { return slices.Contains(peers, s) }

// createArgs are those of jnbd create.
func (c *config) createArgs(s server) []string {
	mode, _, _ := strings.Cut(strings.TrimPrefix(string(s), "jnbd "), ",")
	args := []string{"--mode", mode}
	switch {
	case strings.Contains(string(s), logLasts):
		args = append(args, "--journal-size", c.lasting)
	case strings.Contains(string(s), logFull):
		args = append(args, "--journal-size", "64M")
	}
	if strings.Contains(string(s), preallocated) {
		args = append(args, "--preallocate")
	}
	if strings.HasSuffix(string(s), inside) {
		args = append(args, "--journal", "internal")
	}
	return args
}

// imageKind is what a disk holds when a round begins.
type imageKind int

const (
	sparseImage imageKind = iota // nothing; made anew for each round
	wholeImage                   // every block written, in the page cache; made once
	hugeImage                    // 1 TiB of nothing; made anew for each round
	traceImage                   // nothing, of the trace's size; made anew for each round
)

// prepare makes the disk that a round of s needs, and returns its path. createArgs go to jnbd
// create.
func (c *config) prepare(s server, kind imageKind, createArgs ...string) (string, error) {
	s = server(strings.TrimSuffix(string(s), otherOne)) // both builds serve the same disk, one after the other
	return c.prepareOwn(s, kind, createArgs...)
}

// prepareOwn is prepare for servers that are up at the same time. Peers share an image even so: no
// two of them write at the same time.
func (c *config) prepareOwn(s server, kind imageKind, createArgs ...string) (string, error) {
	if s == nullServer {
		return filepath.Join(c.dir, "null"), nil
	}
	name := strings.NewReplacer(" ", "-", ",", "", "%", "").Replace(strings.Join(append([]string{string(s)}, createArgs...), ""))
	if s.isPeer() && s != qemuQcow2 {
		name = "raw" // one image for all of them: they never write at the same time
	}
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
	} else if err := makeSparse(path, c.sizeOf(kind)); err != nil {
		return "", err
	}
	if s == qemuQcow2 {
		if err := toQcow2(path); err != nil || kind == wholeImage {
			return path, err
		}
		// Room to grow: a slow disk is a file that can't become longer.
		return path, os.Truncate(path, c.sizeOf(kind)*9/8)
	}
	if !s.isOurs() {
		return path, nil
	}
	if out, err := exec.Command(c.jnbd, slices.Concat([]string{"create", path}, c.createArgs(s), createArgs)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("jnbd create: %w\n%s", err, out)
	}
	return path, nil
}

// sizeOf is how large an image of the kind is.
func (c *config) sizeOf(kind imageKind) int64 {
	switch kind {
	case hugeImage:
		return 1 << 40
	case traceImage:
		return traceBytes
	}
	return c.diskBytes
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

// start serves the disk at path, as it is.
func (c *config) start(s server, path string) (*process, error) {
	return c.startAt(s, &place{disk: path, socket: path + ".sock"})
}

// startAt serves a disk.
func (c *config) startAt(s server, at *place) (*process, error) {
	switch s {
	case qemuRaw:
		return startPeer(at.socket, "qemu-nbd", "--socket", at.socket, "--format", "raw", "--shared", "16", "--persistent", at.disk)
	case qemuQcow2:
		return startPeer(at.socket, "qemu-nbd", "--socket", at.socket, "--format", "qcow2", "--shared", "16", "--persistent", at.disk)
	case nbdkitFile:
		return startPeer(at.socket, "nbdkit", "--foreground", "--unix", at.socket, "file", at.disk)
	case jnbdTLS, nbdkitTLS:
		return c.startTLS(s, at)
	case nbdServer:
		return c.startNbdServer(at.socket, at.disk)
	case nullServer:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return startPeer(at.socket, self, "-null", at.socket, "-null-size", fmt.Sprint(max(c.diskBytes, traceBytes)))
	}
	var args []string
	if at.journal != "" {
		args = append(args, "--journal", at.journal)
	}
	if len(at.slow) > 0 {
		args = append(args, "--accept-backing") // a new mount has other times
	}
	jnbd := c.jnbd
	if s.isBefore() {
		jnbd = c.before
	}
	p, _, err := startBuild(jnbd, at, args...)
	return p, err
}

// startNbdServer starts nbd-server. It runs as a daemon, because what it does in the foreground is
// to serve a single connection.
func (c *config) startNbdServer(socket, path string) (*process, error) {
	config, pid := socket+".conf", socket+".pid"
	text := fmt.Sprintf("[generic]\n\tunixsock = %s\n[disk]\n\texportname = %s\n\tflush = true\n\tfua = true\n", socket, path)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	for _, old := range []string{socket, pid} {
		if err := os.RemoveAll(old); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("nbd-server", "-C", config, "-p", pid)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("nbd-server: %w", err)
	}
	for _, made := range []string{pid, socket} {
		if err := awaitFile(made); err != nil {
			return nil, fmt.Errorf("nbd-server: %w", err)
		}
	}
	n, err := numberAfter(pid, "")
	return &process{socket: socket, export: "disk", pid: int(n)}, err
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
	for _, cmd := range [][]string{{c.jnbd, "version"}, {"nbdkit", "--version"}, {"qemu-nbd", "--version"}, {"nbd-server", "-V"}, {"nbdcopy", "--version"}, {"fio", "--version"}, {"uname", "-sr"}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			line = filepath.Base(cmd[0]) + ": not there"
		}
		all = append(all, line)
	}
	return all
}
