package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// floor measures what no server can be faster than: a copy of its payload, a message there and back
// over a unix socket, and making 8 KiB durable on space that was written before.
func floor(c *config, w *workload) error {
	c.report.say("\n## %s\n\n%s.", w.name, w.about)
	var rows [][]string
	for _, step := range []struct {
		name string
		run  func(c *config) (*histogram, error)
	}{
		{"memcpy of 4 KiB, from memory that no cache holds", copies},
		{"write and fdatasync of 8 KiB on written space", syncs},
		{"4 KiB there and 16 bytes back over a unix socket", echoes},
	} {
		h, err := step.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		micros := func(p float64) string { return fmt.Sprintf("%.2f", float64(h.percentile(p))/1e3) }
		rows = append(rows, []string{step.name, micros(50), micros(99), micros(99.9)})
	}
	c.report.table([]string{"", "p50 µs", "p99 µs", "p99.9 µs"}, rows)
	return nil
}

// timeEach calls do for the time of a measurement, n times for each figure that counts.
func (c *config) timeEach(n int, do func() error) (*histogram, error) {
	var h histogram
	for deadline := time.Now().Add(c.runtime); ; {
		began := time.Now()
		if began.After(deadline) {
			return &h, nil
		}
		for range n {
			if err := do(); err != nil {
				return nil, err
			}
		}
		h.add(time.Since(began) / time.Duration(n))
	}
}

func copies(c *config) (*histogram, error) {
	const room = 256 << 20 // more than any cache
	from, to := incompressible(room), make([]byte, 4096)
	at := 0
	return c.timeEach(64, func() error {
		copy(to, from[at:at+len(to)])
		at = (at + 65*len(to)) % (room - len(to))
		return nil
	})
}

func syncs(c *config) (*histogram, error) {
	f, err := preWritten(filepath.Join(c.dir, "floor.log"), flushRoom)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := nothing{log: f, zeros: make([]byte, flushBytes)}
	return c.timeEach(1, s.flush)
}

func echoes(c *config) (*histogram, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	here, there := os.NewFile(uintptr(pair[0]), "here"), os.NewFile(uintptr(pair[1]), "there")
	ended := make(chan struct{})
	go func() { // ends when its other end is closed
		defer close(ended)
		defer there.Close()
		message := make([]byte, 4096)
		for {
			if _, err := io.ReadFull(there, message); err != nil {
				return
			}
			if _, err := there.Write(message[:16]); err != nil {
				return
			}
		}
	}()
	message := make([]byte, 4096)
	h, err := c.timeEach(1, func() error {
		if _, err := here.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(here, message[:16])
		return err
	})
	here.Close()
	<-ended
	return h, err
}
