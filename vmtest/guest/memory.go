package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// useMemory has a process of its own fill size bytes of memory and find every page as it was.
// It may keep limit bytes in memory; the rest goes out to swap, and comes in again.
func useMemory(size, limit int64, seed uint64) (err error) {
	group, err := memoryGroup(limit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.Close()) }()
	asked, err := json.Marshal(step.Step{Size: size, Seed: seed})
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", step.UseMemory, string(asked))
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", step.UseMemory, err, step.Tail(out))
	}
	return nil
}

// memoryGroup is the directory of a control group whose processes keep at most limit bytes in
// memory.
func memoryGroup(limit int64) (*os.File, error) {
	const root, group = "/tmp/cgroup", "/tmp/cgroup/limited"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(group, "memory.max"), []byte(strconv.FormatInt(limit, 10)), 0o644); err != nil {
		return nil, err
	}
	return os.Open(group)
}

// fillMemory is the life of the process that useMemory starts.
func fillMemory() {
	var asked step.Step
	err := json.Unmarshal([]byte(os.Args[2]), &asked)
	if err == nil {
		err = checkMemory(asked.Size, asked.Seed)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// checkMemory writes words that depend on seed to each page of size bytes, and afterwards finds
// them all as they were.
func checkMemory(size int64, seed uint64) (err error) {
	memory, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("take %d bytes of memory: %w", size, err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(memory)) }()
	page := os.Getpagesize()
	// The two ends of a page: half a page from one place and half from another is seen.
	eachWord := func(f func(word []byte, want uint64)) {
		words := rand.New(rand.NewPCG(seed, 0))
		for at := 0; at+page <= len(memory); at += page {
			f(memory[at:at+8], words.Uint64())
			f(memory[at+page-8:at+page], words.Uint64())
		}
	}
	eachWord(binary.LittleEndian.PutUint64)
	wrong := 0
	eachWord(func(word []byte, want uint64) {
		if binary.LittleEndian.Uint64(word) != want {
			wrong++
		}
	})
	if wrong > 0 {
		return fmt.Errorf("%d of %d words of memory are not what was written there", wrong, len(memory)/page*2)
	}
	return nil
}
