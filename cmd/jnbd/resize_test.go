package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// Clients that write all the time notice nothing of a resize but a moment's wait, and may
// use the new room on the connections that they have.
func TestResizeUnderLoad(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "8M", "--journal-size", "64M")
	const writers, chunk = 3, 64 << 10
	stop := make(chan struct{})
	var wg sync.WaitGroup
	written := make([]byte, writers) // the last value of each
	errs := make([]error, writers)
	for i := range writers {
		c := mustDial(t, s.uri)
		wg.Go(func() {
			for value := byte(1); ; value = value%250 + 1 {
				p := bytes.Repeat([]byte{value}, chunk)
				if err := c.write(uint64(i*chunk), p); err != nil {
					errs[i] = fmt.Errorf("write: %w", err)
					return
				}
				written[i] = value
				got, err := c.read(uint64(i*chunk), chunk)
				if err != nil || !bytes.Equal(got, p) {
					errs[i] = fmt.Errorf("read: %w", errors.Join(err, errors.New("or other data than was written")))
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	old := mustDial(t, s.uri)
	for _, size := range []int{16, 24, 64} {
		runJnbd(t, 0, "resize", diskPath, fmt.Sprintf("%dM", size))
		last := uint64(size)<<20 - 512
		if err := old.write(last, bytes.Repeat([]byte{7}, 512)); err != nil {
			t.Fatalf("write to the end of the disk of %d MiB on an old connection: %v", size, err)
		}
		if c := mustDial(t, s.uri); c.size != uint64(size)<<20 {
			t.Errorf("a new client sees %d bytes, want %d MiB", c.size, size)
		}
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	s = startServer(t, diskPath)
	c := mustDial(t, s.uri)
	for i := range writers {
		got, err := c.read(uint64(i*chunk), chunk)
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{written[i]}, chunk)) {
			t.Errorf("what writer %d wrote last is not there after a restart (%v)", i, err)
		}
	}
	s.stop(t)
}
