package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// writeBlock writes one block of a device past the page cache: one request, answered when
// this returns.
func writeBlock(device string, offset int64, block []byte) error {
	return withBlock(device, unix.O_WRONLY, func(fd int, aligned []byte) error {
		copy(aligned, block)
		n, err := unix.Pwrite(fd, aligned, offset)
		return whole("write", n, err)
	})
}

// readBlock reads one block of a device past the page cache.
func readBlock(device string, offset int64) (block []byte, err error) {
	err = withBlock(device, unix.O_RDONLY, func(fd int, aligned []byte) error {
		n, err := unix.Pread(fd, aligned, offset)
		block = append(block, aligned...)
		return whole("read", n, err)
	})
	return block, err
}

// withBlock calls f with the device, open for direct access, and an aligned block of memory.
func withBlock(device string, mode int, f func(fd int, aligned []byte) error) (err error) {
	fd, err := unix.Open(device, mode|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	aligned, err := unix.Mmap(-1, 0, step.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory for a block: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(aligned)) }()
	return f(fd, aligned)
}

// whole says what went wrong with a block, if anything did.
func whole(what string, n int, err error) error {
	if err == nil && n != step.BlockSize {
		err = fmt.Errorf("%d bytes, want %d", n, step.BlockSize)
	}
	if err != nil {
		return fmt.Errorf("%s a block: %w", what, err)
	}
	return nil
}
