package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"jnbd/testtool"
)

// scriptCommands are what the scripts can do besides testscript's own commands.
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	sums := map[string]string{}
	return map[string]func(*testscript.TestScript, bool, []string){
		// exits CODE PROGRAM ARGS…: like exec, with the exit code that is wanted.
		"exits": func(ts *testscript.TestScript, _ bool, args []string) {
			want, got := scriptInt(ts, args[0]), int64(0)
			err := ts.Exec(args[1], args[2:]...)
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				got = int64(failed.ExitCode())
			} else if err != nil {
				ts.Fatalf("%v", err)
			}
			if got != want {
				ts.Fatalf("%s exited with %d, want %d\nstderr: %s", args[1], got, want, ts.ReadFile("stderr"))
			}
		},
		// sum FILE…: remembers the files' content; unchanged FILE… compares.
		"sum": func(ts *testscript.TestScript, _ bool, args []string) {
			for _, name := range args {
				sums[ts.MkAbs(name)] = scriptSum(ts, name)
			}
		},
		"unchanged": func(ts *testscript.TestScript, _ bool, args []string) {
			for _, name := range args {
				if before, now := sums[ts.MkAbs(name)], scriptSum(ts, name); before == "" || before != now {
					ts.Fatalf("%s has changed: %s, was %q", name, now, before)
				}
			}
		},
		// size FILE BYTES
		"size": func(ts *testscript.TestScript, _ bool, args []string) {
			info, err := os.Stat(ts.MkAbs(args[0]))
			ts.Check(err)
			if want := scriptInt(ts, args[1]); info.Size() != want {
				ts.Fatalf("%s has %d bytes, want %d", args[0], info.Size(), want)
			}
		},
		// truncate FILE BYTES: makes the file if need be.
		"truncate": func(ts *testscript.TestScript, _ bool, args []string) {
			f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR|os.O_CREATE, 0o600)
			ts.Check(err)
			ts.Check(errors.Join(f.Truncate(scriptInt(ts, args[1])), f.Close()))
		},
		// fill FILE OFFSET LENGTH BYTE
		"fill": func(ts *testscript.TestScript, _ bool, args []string) {
			b := make([]byte, scriptInt(ts, args[2]))
			for i := range b {
				b[i] = byte(scriptInt(ts, args[3]))
			}
			scriptPatch(ts, args[0], args[1], len(b), func(p []byte) { copy(p, b) })
		},
		// flip FILE OFFSET: turns one bit over.
		"flip": func(ts *testscript.TestScript, _ bool, args []string) {
			scriptPatch(ts, args[0], args[1], 1, func(p []byte) { p[0] ^= 0x10 })
		},
		// newer FILE OFFSET: makes a superblock slot one of a later format, with its
		// checksum right.
		"newer": func(ts *testscript.TestScript, _ bool, args []string) {
			scriptPatch(ts, args[0], args[1], 4096, func(p []byte) {
				binary.LittleEndian.PutUint32(p[8:], binary.LittleEndian.Uint32(p[8:])+1)
				binary.LittleEndian.PutUint32(p[12:], 0)
				binary.LittleEndian.PutUint32(p[12:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
			})
		},
	}
}

// scriptCondition knows what a process may be allowed or not: [mounts], to mount a tmpfs of
// its own, and [loop], to make a block device of a file. Where tests are required what is not
// allowed is a failure: only these scripts fill a host's disk and lie on a block device.
func scriptCondition(condition string) (bool, error) {
	allowed := map[string]func() bool{"mounts": mayMount, "loop": mayUseLoop}[condition]
	switch {
	case allowed == nil:
		return false, fmt.Errorf("unknown condition %q", condition)
	case allowed():
		return true, nil
	case testtool.Required():
		return false, fmt.Errorf("[%s] is not allowed to this process, and JNBD_REQUIRE=1 forbids to skip: run as root, or in a container with CAP_SYS_ADMIN and /dev/loop-control", condition)
	}
	return false, nil
}

var mayMount = sync.OnceValue(func() bool {
	return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil
})

var mayUseLoop = sync.OnceValue(func() bool {
	f, err := os.CreateTemp("", "jnbd-loop-")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	if errors.Join(f.Truncate(1<<20), f.Close()) != nil {
		return false
	}
	device, err := exec.Command("losetup", "-f", "--show", f.Name()).Output()
	if err != nil {
		return false
	}
	return exec.Command("losetup", "-d", strings.TrimSpace(string(device))).Run() == nil
})

func scriptInt(ts *testscript.TestScript, text string) int64 {
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return n
	}
	n, err := parseSize(text)
	ts.Check(err)
	return n
}

func scriptSum(ts *testscript.TestScript, name string) string {
	f, err := os.Open(ts.MkAbs(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "missing"
	}
	ts.Check(err)
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	ts.Check(err)
	return fmt.Sprintf("%d bytes, %x", n, hash.Sum(nil))
}

// scriptPatch changes n bytes of a file. A negative offset counts from its end.
func scriptPatch(ts *testscript.TestScript, name, offset string, n int, change func([]byte)) {
	f, err := os.OpenFile(ts.MkAbs(name), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	off := scriptInt(ts, offset)
	if off < 0 {
		info, err := f.Stat()
		ts.Check(err)
		off += info.Size()
	}
	b := make([]byte, n)
	_, err = f.ReadAt(b, off)
	ts.Check(err)
	change(b)
	_, err = f.WriteAt(b, off)
	ts.Check(err)
}

// nbdio is the scripts' NBD client: nbdio URI STEP…, where a step is write:OFFSET:SIZE:BYTE,
// read:OFFSET:SIZE:BYTE (every byte must be BYTE), zero:OFFSET:SIZE, trim:OFFSET:SIZE,
// flush, size:BYTES, or kill:PID (kill -9 before the client says goodbye, which would flush).
func nbdio(args []string) int {
	c, err := dial(args[0])
	for i := 1; err == nil && i < len(args); i++ {
		if err = nbdioStep(c, strings.Split(args[i], ":")); err != nil {
			err = fmt.Errorf("%s: %w", args[i], err)
		}
	}
	if err == nil && !strings.HasPrefix(args[len(args)-1], "kill:") {
		err = c.disconnect()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nbdio: %v\n", err)
		return 1
	}
	return 0
}

func nbdioStep(c *client, words []string) error {
	numbers := make([]int64, 3)
	for i, word := range words[1:] {
		n, err := strconv.ParseInt(word, 0, 64)
		if err != nil {
			n, err = parseSize(word)
		}
		if err != nil {
			return err
		}
		numbers[i] = n
	}
	off, length := uint64(numbers[0]), int(numbers[1])
	fill := make([]byte, length)
	for i := range fill {
		fill[i] = byte(numbers[2])
	}
	switch words[0] {
	case "write":
		return c.write(off, fill)
	case "read":
		data, err := c.read(off, length)
		for i := range data {
			if data[i] != fill[i] {
				return fmt.Errorf("byte %d is %#x, want %#x", off+uint64(i), data[i], fill[i])
			}
		}
		return err
	case "zero", "trim":
		command := uint16(nbdCmdZeroes)
		if words[0] == "trim" {
			command = nbdCmdTrim
		}
		_, err := c.do(command, 0, off, length, nil)
		return err
	case "flush":
		return c.flush()
	case "kill":
		return syscall.Kill(int(off), syscall.SIGKILL)
	case "size":
		if c.size != off {
			return fmt.Errorf("the disk has %d bytes", c.size)
		}
		return nil
	}
	return fmt.Errorf("unknown step")
}
