// Command record makes the trace that scripts/bench replays: the block requests of ext4 while a
// Go source tree is unpacked and a program is built from it, in a virtual machine.
//
//	QEMU → NBD → nbdkit: log filter, delay filter, file
//
// The log says when each request came and when it was answered. That every answer takes a while is
// on purpose: what came before an answer can't have waited for it, so the trace knows which requests
// the guest's kernel really had to wait for.
//
// The trace is text, gzipped. The first line is its format and the disk's size in bytes. Each other
// line is one request: a letter (r, w, W with FUA, f flush, t trim, z zeroes), offset and length
// in units of 512 bytes, and how many of the requests right before it need not be answered yet.
package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"jnbd/vmtest"
	"jnbd/vmtest/step"
)

const (
	diskBytes = 1 << 30
	delay     = "2ms"
	patience  = 25 * time.Minute
)

// work is what the guest does once the disk is mounted at /disk; /dev/vdb is the archive.
const work = `set -e
export GOROOT=/disk/go GOCACHE=/disk/cache GOTMPDIR=/disk/tmp GOPATH=/disk/path CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
mkdir /disk/tmp
tar -x -f /dev/vdb -C /disk
cd /disk/go/src/cmd/gofmt
/disk/go/bin/go build -o /disk/gofmt .
sync`

func main() {
	out := flag.String("o", "", "the trace to write")
	dir := flag.String("dir", "", "a directory for a disk and an archive, of up to 2 GiB")
	flag.Parse()
	if *out == "" || *dir == "" {
		fmt.Fprintln(os.Stderr, "usage: record -dir DIRECTORY -o FILE")
		os.Exit(64)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := record(ctx, *dir, *out); err != nil {
		fmt.Fprintf(os.Stderr, "record: %v\n", err)
		os.Exit(1)
	}
}

// record runs the machine on a recorded disk and writes the trace.
func record(ctx context.Context, dir, out string) error {
	archive := filepath.Join(dir, "go.tar")
	if err := pack(ctx, archive); err != nil {
		return err
	}
	initramfs := filepath.Join(dir, "initramfs")
	kernel, err := guest(ctx, dir, initramfs)
	if err != nil {
		return err
	}
	log := filepath.Join(dir, "requests.log")
	server, uri, err := serve(dir, log)
	if err != nil {
		return err
	}
	err = run(ctx, vmtest.Config{
		Kernel: kernel, Initramfs: initramfs, Accelerator: vmtest.Accelerator(ctx, kernel, initramfs),
		Memory: 2048, Disks: []string{uri, archive}, Deadline: patience,
	})
	err = errors.Join(err, server.Process.Signal(syscall.SIGTERM))
	if waited := server.Wait(); err == nil {
		err = waited
	}
	if err != nil {
		return err
	}
	return convert(log, out)
}

// pack makes the archive: Go's own source tree, without its tests, and the tools that build with it.
func pack(ctx context.Context, path string) error {
	said, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	root := strings.TrimSpace(string(said))
	args := []string{
		"-c", "-f", path, "--exclude=testdata", "--exclude=*_test.go", "-C", filepath.Dir(root), "--transform", "s,^" + filepath.Base(root) + ",go,",
	}
	for _, name := range []string{"VERSION", "go.env", "bin/go", "pkg/tool", "pkg/include", "src"} {
		args = append(args, filepath.Join(filepath.Base(root), name))
	}
	if said, err := exec.CommandContext(ctx, "tar", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w\n%s", err, said)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	const sector = 1 << 20
	return os.Truncate(path, (info.Size()+sector-1)/sector*sector)
}

// guest builds what the machine boots.
func guest(ctx context.Context, dir, initramfs string) (vmtest.Kernel, error) {
	programs, err := vmtest.HostPrograms("mkfs.ext4", "bash", "mkdir", "tar", "sync")
	if err != nil {
		return vmtest.Kernel{}, err
	}
	kernel, err := vmtest.FindKernel(ctx)
	if err != nil {
		return kernel, err
	}
	init := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", init, "jnbd/vmtest/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return kernel, fmt.Errorf("build the guest's init: %w\n%s", err, said)
	}
	f, err := os.Create(initramfs)
	if err != nil {
		return kernel, err
	}
	return kernel, errors.Join(vmtest.BuildInitramfs(f, kernel, init, programs), f.Close())
}

// serve serves a new disk with a log of its requests.
func serve(dir, log string) (server *exec.Cmd, uri string, err error) {
	disk, socket := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk.sock")
	for _, old := range []string{disk, socket, log} {
		if err := os.RemoveAll(old); err != nil {
			return nil, "", err
		}
	}
	f, err := os.Create(disk)
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return nil, "", err
	}
	server = exec.Command("nbdkit", "--foreground", "--threads", "64", "--unix", socket, "--filter=log", "--filter=delay",
		"file", disk, "logfile="+log, "rdelay="+delay, "wdelay="+delay)
	server.Stderr = os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := server.Start(); err != nil {
		return nil, "", err
	}
	for range 1000 {
		if _, err := os.Stat(socket); err == nil {
			return server, "nbd+unix:///?socket=" + socket, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, "", errors.Join(errors.New("nbdkit is not ready"), server.Process.Kill(), server.Wait())
}

// run boots the machine and has it do the work.
func run(ctx context.Context, config vmtest.Config) error {
	m, err := vmtest.Start(ctx, config)
	if err != nil {
		return err
	}
	err = func() error {
		if _, err := m.Run(ctx, "mkfs.ext4", "-q", "/dev/vda"); err != nil {
			return err
		}
		if _, err := m.Do(ctx, step.Step{Do: step.Mount, Device: "/dev/vda", Dir: "/disk"}, nil); err != nil {
			return err
		}
		if _, err := m.Run(ctx, "bash", "-c", work); err != nil {
			return err
		}
		_, err := m.Do(ctx, step.Step{Do: step.Unmount, Dir: "/disk"}, nil)
		return err
	}()
	if err != nil {
		return errors.Join(err, m.Kill())
	}
	return m.Quit(ctx)
}

// convert makes a trace of nbdkit's log.
func convert(log, out string) error {
	from, err := os.Open(log)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(out)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(to, gzip.BestCompression)
	if err != nil {
		return errors.Join(err, to.Close())
	}
	return errors.Join(translate(from, z, diskBytes), z.Close(), to.Close())
}

// letters are the requests of nbdkit's log that change or read the disk.
var letters = map[string]string{"Read": "r", "Write": "w", "Flush": "f", "Trim": "t", "Zero": "z"}

// translate writes the trace of what the log holds. Its lines are like
//
//	2026-11-21 13:17:50.706731 connection=1 Write id=1 offset=0x2000 count=0x1000 fua=0 ...
//	2026-11-21 13:17:50.707866 connection=1 ...Write id=1 return=0
func translate(log io.Reader, out io.Writer, size int64) error {
	if _, err := fmt.Fprintf(out, "jnbd-trace-1 %d\n", size); err != nil {
		return err
	}
	open := map[string]int{} // numbers of requests that are not answered, by connection and id
	count := 0
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 5 || !strings.HasPrefix(words[4], "id=") {
			continue
		}
		name := words[2] + words[4]
		if what, ok := strings.CutPrefix(words[3], "..."); ok {
			if _, ok := letters[what]; ok && words[5] != "return=0" {
				return fmt.Errorf("a request failed: %s", lines.Text())
			}
			delete(open, name)
			continue
		}
		letter, ok := letters[words[3]]
		if !ok {
			continue
		}
		var offset, length int64
		for _, word := range words[5:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "offset":
				fmt.Sscan(value, &offset)
			case "count":
				fmt.Sscan(value, &length)
			case "fua":
				if value == "1" && letter == "w" {
					letter = "W"
				}
			}
		}
		oldest := count
		for _, n := range open {
			oldest = min(oldest, n)
		}
		if _, err := fmt.Fprintf(out, "%s %d %d %d\n", letter, offset/512, length/512, count-oldest); err != nil {
			return err
		}
		open[name] = count
		count++
	}
	return lines.Err()
}
