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

// mediumPasses is a round of it.
func (c *config) mediumPasses(r *race) (map[string]result, error) {
	var places [2]*os.File
	for i, name := range []string{"home", "spare"} {
		f, err := setAside(filepath.Join(c.dir, "medium."+name), c.diskBytes)
		if err != nil {
			return nil, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		places[i] = f
	}
	passes := map[string]result{}
	for i, p := range r.passes {
		load, ok := p.load.(wholeDisk)
		if !ok {
			return nil, fmt.Errorf("%s writes whole disks only", onceFloor)
		}
		one, err := load.onMedium(places[i%2], c.diskBytes)
		if err != nil {
			return nil, err
		}
		passes[p.name] = one
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

// onMedium is the load without a server.
func (l wholeDisk) onMedium(f *os.File, size int64) (result, error) {
	mem, err := unix.Mmap(-1, 0, int(l.bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return result{}, err
	}
	defer unix.Munmap(mem)
	copy(mem, incompressible(len(mem)))
	began := time.Now()
	group := l.bytes * int64(l.flushEach)
	for from := int64(0); from < size; from += group {
		if err := l.writeGroup(f, mem, from, min(from+group, size)); err != nil {
			return result{}, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return result{}, err
		}
	}
	took := time.Since(began)
	n := float64(size / l.bytes)
	return result{requests: n, rate: n / took.Seconds(), bytes: float64(size), bytesOnHost: float64(size), took: took}, nil
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
