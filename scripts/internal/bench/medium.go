package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// onceFloor is what the medium alone takes for bulk that is written once: no server and no client, but
// the same bytes past the page cache by some threads, to one place and then to another, as homes and
// spare slots take turns, and a flush as often. The first two passes go to space that was set aside and
// never written, where a medium may be slower; no server that writes once can be faster there.
const onceFloor server = "the medium, written once"

const mediumThreads = 4

// medium is the two places.
type medium struct {
	places [2]*os.File
	size   int64
}

func (c *config) newMedium() (*medium, error) {
	m := &medium{size: c.diskBytes}
	for i, name := range []string{"home", "spare"} {
		f, err := setAside(filepath.Join(c.dir, "medium."+name), c.diskBytes)
		if err != nil {
			return nil, errors.Join(err, m.remove())
		}
		m.places[i] = f
	}
	return m, nil
}

func (m *medium) remove() error {
	var failed []error
	for _, f := range m.places {
		if f != nil {
			failed = append(failed, os.Remove(f.Name()), f.Close())
		}
	}
	return errors.Join(failed...)
}

// mediumPasses is a round of it.
func (c *config) mediumPasses(r *race) (_ map[string]result, err error) {
	m, err := c.newMedium()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.remove()) }()
	passes := map[string]result{}
	for i, p := range r.passes {
		one, err := m.begin(p.load, i)
		for over := false; err == nil && !over; {
			over, err = one.turn()
		}
		if err != nil {
			return nil, err
		}
		if passes[p.name], err = one.end(); err != nil {
			return nil, err
		}
	}
	return passes, nil
}

// setAside makes a file of size bytes that takes writes past the page cache. Its space is its own and
// was never written.
func setAside(path string, size int64) (*os.File, error) {
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// mediumPass is a pass of it, in one turn.
type mediumPass struct {
	wholeDisk
	file *os.File
	mem  []byte
	size int64
	took time.Duration
}

func (m *medium) begin(l load, number int) (player, error) {
	whole, ok := l.(wholeDisk)
	if !ok {
		return nil, fmt.Errorf("%s writes whole disks only", onceFloor)
	}
	mem, err := unix.Mmap(-1, 0, int(whole.bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	copy(mem, incompressible(len(mem)))
	return &mediumPass{wholeDisk: whole, file: m.places[number%2], mem: mem, size: m.size}, nil
}

func (p *mediumPass) turn() (over bool, err error) {
	began := time.Now()
	group := p.bytes * int64(p.flushEach)
	for from := int64(0); from < p.size; from += group {
		if err := p.writeGroup(p.file, p.mem, from, min(from+group, p.size)); err != nil {
			return false, err
		}
		if err := unix.Fdatasync(int(p.file.Fd())); err != nil {
			return false, err
		}
	}
	p.took = time.Since(began)
	return true, nil
}

func (p *mediumPass) end() (result, error) {
	n := float64(p.size / p.bytes)
	r := result{requests: n, rate: n / p.took.Seconds(), bytes: float64(p.size), bytesOnHost: float64(p.size), took: p.took}
	return r, unix.Munmap(p.mem)
}

// writeGroup writes what lies between two flushes.
func (l wholeDisk) writeGroup(f *os.File, p []byte, from, to int64) error {
	var failed [mediumThreads]error
	var running sync.WaitGroup
	for i := range int64(mediumThreads) {
		running.Go(func() {
			for off := from + i*l.bytes; off < to && failed[i] == nil; off += mediumThreads * l.bytes {
				_, failed[i] = f.WriteAt(p, off)
			}
		})
	}
	running.Wait()
	return errors.Join(failed[:]...)
}
