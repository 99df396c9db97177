package main

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/workload"
)

// marker writes marks, one sector after the other. All methods may be called at the same time.
type marker struct {
	device *os.File
	buffer []byte // guarded by mu; aligned

	mu   sync.Mutex
	next int64 // guarded by mu; the number of the next mark
}

// openMarker goes on behind the marks that are there.
func openMarker(path string) (*marker, error) {
	device, err := openDirect(path)
	if err != nil {
		return nil, err
	}
	m := &marker{device: device}
	if m.buffer, err = alignedMemory(4096); err != nil {
		return nil, errors.Join(err, device.Close())
	}
	for {
		sector := m.buffer[:workload.MarkBytes]
		if _, err := device.ReadAt(sector, m.next*workload.MarkBytes); err != nil {
			return nil, errors.Join(err, device.Close())
		}
		if _, err := workload.DecodeMark(sector); err != nil {
			return m, nil
		}
		m.next++
	}
}

// mark writes the next mark. When it returns, the recorded disk has it.
func (m *marker) mark(mark workload.Mark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	mark.Seq = m.next
	if err := mark.Encode(m.buffer); err != nil {
		return err
	}
	if _, err := m.device.WriteAt(m.buffer[:workload.MarkBytes], m.next*workload.MarkBytes); err != nil {
		return fmt.Errorf("mark %d: %w", m.next, err)
	}
	m.next++
	return nil
}

func (m *marker) close() error {
	return errors.Join(m.device.Close(), unix.Munmap(m.buffer))
}

// openDirect opens a block device or file past the page cache.
func openDirect(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
}

// alignedMemory is memory that direct I/O takes as it is.
func alignedMemory(n int) ([]byte, error) {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("memory for direct i/o: %w", err)
	}
	return p, nil
}
