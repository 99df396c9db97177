package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Serving the kernel of the same host (trap 11). When memory runs out, that kernel writes to
// the disk to free some, and waits for the server; the server must then need nothing that
// waits for the kernel in turn:
//
//  1. Its memory is locked: no page of it is ever fetched from a disk. What is there now
//     is brought in now; what comes is locked as it is first touched, so that buffers which
//     are only mapped cost nothing.
//  2. Each of its threads is an "I/O flusher": where it allocates memory, the kernel does not
//     write to disks to find some, and does not slow it down for pages that others
//     have made dirty. New threads inherit that.
//
// Neither can make a deadlock impossible: a backing on a file system needs memory of that.

// capIPCLock is a number of linux/capability.h.
const capIPCLock = 14

// prepareForSwap does what the host allows, and logs a warning for what it does not. That all of
// it is allowed is logged, too: nobody can see from outside what the threads are.
func prepareForSwap(log zerolog.Logger) {
	lockErr, flusherErr := lockMemory(), becomeFlusher()
	if lockErr != nil {
		log.Warn().Err(lockErr).Msg("--swap: memory can't be locked, so jnbd itself may be swapped out to the disk that it serves; run it as root, or give it CAP_IPC_LOCK or LimitMEMLOCK=infinity")
	}
	if flusherErr != nil {
		log.Warn().Err(flusherErr).Msg("--swap: jnbd can't be made an I/O flusher, so allocating memory may wait for the disk that it serves; run it as root, or give it CAP_SYS_RESOURCE")
	}
	if lockErr == nil && flusherErr == nil {
		log.Info().Msg("--swap: memory is locked, and every thread is an I/O flusher")
	}
}

// lockMemory is step 1. It refuses where a later allocation would meet the limit of locked
// memory: the Go runtime does not survive that.
func lockMemory() error {
	allowed, err := hasCapability(capIPCLock)
	if err != nil {
		return err
	}
	if !allowed {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			return fmt.Errorf("read the limit of locked memory: %w", err)
		}
		if limit.Max != unix.RLIM_INFINITY {
			return fmt.Errorf("at most %d bytes may be locked, and CAP_IPC_LOCK is missing", limit.Max)
		}
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			return fmt.Errorf("raise the limit of locked memory: %w", err)
		}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	return nil
}

// becomeFlusher is step 2, for all threads.
func becomeFlusher() error {
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.EINVAL):
		return fmt.Errorf("the kernel is older than 5.6: %w", errno)
	}
	return fmt.Errorf("prctl: %w", errno)
}

// hasCapability reports whether the process has a capability now.
func hasCapability(number uint) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read the capabilities: %w", err)
	}
	return data[number/32].Effective&(1<<(number%32)) != 0, nil
}
