package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// kernelLog is what the kernel has warned of so far, and worse, a line each, but for lines
// that match the regular expression except, if it is not empty.
func kernelLog(except string) ([]byte, error) {
	const readAll, warning = 3, '4' // SYSLOG_ACTION_READ_ALL, KERN_WARNING
	buffer := make([]byte, 1<<20)   // more than the kernel keeps
	n, err := unix.Klogctl(readAll, buffer)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	known, err := regexp.Compile(except)
	if err != nil {
		return nil, err
	}
	var grave []byte
	for line := range bytes.Lines(buffer[:n]) {
		// <4>[    2.123456] text
		if len(line) > 2 && line[0] == '<' && line[1] <= warning && line[2] == '>' && (except == "" || !known.Match(line)) {
			grave = append(grave, line[3:]...)
		}
	}
	return grave, nil
}

// blockedThreads is a line for each thread in uninterruptible sleep: not even SIGKILL ends it.
func blockedThreads() ([]byte, error) {
	threads, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var blocked []byte
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		// 412 (name) D …: the name may hold anything, so the last bracket counts
		if _, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')'):], []byte(" ")); ok && rest[0] == 'D' {
			blocked = append(append(blocked, stat[:bytes.LastIndexByte(stat, ')')+1]...), '\n')
		}
	}
	return blocked, nil
}
