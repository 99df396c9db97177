package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"jnbd/powercut"
	"jnbd/vmtest/workload"
)

// rawWriter numbers requests over all its lanes, and stamps them by one clock.
type rawWriter struct {
	marks  *marker
	device *os.File

	mu     sync.Mutex
	clock  int64  // guarded by mu
	number uint64 // guarded by mu
}

// raw writes numbered requests to the disk, each lane one after the other.
func (c *config) raw(m *marker) error {
	device, err := openDirect(c.device)
	if err != nil {
		return err
	}
	size, err := device.Seek(0, 2)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	if err := m.mark(workload.Mark{Kind: workload.Begin}); err != nil {
		return errors.Join(err, device.Close())
	}
	w := &rawWriter{marks: m, device: device}
	failures := make(chan error, c.lanes)
	for _, lane := range workload.Lanes(c.seed, c.lanes, size) {
		// Ends after count requests, or with the first that fails.
		go func() { failures <- w.run(lane, c.count) }()
	}
	for range c.lanes {
		err = errors.Join(err, <-failures)
	}
	return errors.Join(err, device.Close())
}

// run performs the requests of one lane.
func (w *rawWriter) run(lane *workload.Lane, count int) error {
	buffer, err := alignedMemory(1 << 20)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buffer) }() // fails for no mapping of ours
	for range count {
		q := lane.Next()
		w.mu.Lock()
		w.clock++
		w.number++
		q.Sent = w.clock
		number := w.number
		w.mu.Unlock()
		if err := w.perform(q, number, buffer); err != nil {
			return fmt.Errorf("request %d, %s: %w", number, &q, err)
		}
		w.mu.Lock()
		w.clock++
		q.Replied, q.Over = w.clock, w.clock
		w.mu.Unlock()
		if err := w.marks.mark(workload.Mark{Kind: workload.Answered, Number: number, Request: &q}); err != nil {
			return err
		}
	}
	return nil
}

// perform has the kernel send one request.
func (w *rawWriter) perform(q powercut.Request, number uint64, buffer []byte) error {
	fd := int(w.device.Fd())
	switch q.Kind {
	case powercut.Flush:
		return unix.Fdatasync(fd)
	case powercut.Trim:
		span := [2]uint64{uint64(q.Off), uint64(q.N)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
		if errno != 0 {
			return errno
		}
		return nil
	}
	data := buffer[:copy(buffer, powercut.Payload(number, q.Off, q.N))]
	// Direct, and with RWF_DSYNC a forced unit access: the kernel makes FUA of it.
	flags := 0
	if q.FUA {
		flags = unix.RWF_DSYNC
	}
	n, err := unix.Pwritev2(fd, [][]byte{data}, q.Off, flags)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%d of %d bytes were written", n, len(data))
	}
	return err
}
