package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// writeTree writes a tree of files and makes it durable with sync(2). A third of the files
// is first written with other content and then overwritten in place, a third has a
// neighbour that is deleted again, so that the disk sees overwrites and frees too. It
// returns what it wrote.
func writeTree(dir string, seed uint64, files int) ([]step.File, error) {
	written := make([]step.File, 0, files)
	for i := range files {
		name, content := step.Name(seed, i), step.Content(seed, i)
		written = append(written, step.Describe(name, content))
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		var err error
		switch i % 3 {
		case 0:
			err = os.WriteFile(path, content, 0o644)
		case 1:
			err = overwrite(path, content)
		case 2:
			err = writeBesideDeleted(path, content)
		}
		if err != nil {
			return nil, err
		}
	}
	unix.Sync()
	return written, nil
}

// overwrite writes path with the bits of content turned round, makes that durable, and
// writes content over it in place.
func overwrite(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	other := make([]byte, len(content))
	for k := range content {
		other[k] = ^content[k]
	}
	if _, err := f.WriteAt(other, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	return err
}

// writeBesideDeleted writes path while another file of the same size comes and goes.
func writeBesideDeleted(path string, content []byte) error {
	beside := path + ".deleted"
	if err := os.WriteFile(beside, content, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return err
	}
	return os.Remove(beside)
}

// writeSynced writes files into dir, fsyncs each and then its directory, and only then
// says it. It goes on until it has written as many as it should, if limit is not 0, or
// until something fails, and returns that. Beside it a stream of writes that nobody syncs
// keeps the disk busy, so that whatever ends this ends it in mid-write.
func writeSynced(dir string, seed uint64, limit int, say func(...step.File) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	enough := make(chan struct{})
	stream := make(chan error, 1)
	go func() { stream <- writeStream(dir+".stream", seed, enough) }() // ends when a write fails, or it is enough
	err := writeFilesSynced(dir, seed, limit, say)
	if err == nil {
		close(enough)
	}
	return errors.Join(err, <-stream)
}

// writeFilesSynced is writeSynced without the stream.
func writeFilesSynced(dir string, seed uint64, limit int, say func(...step.File) error) error {
	for i := 0; limit == 0 || i < limit; i++ {
		name := fmt.Sprintf("synced-%06d", i)
		content := step.Content(seed, i)
		if err := writeFileSynced(dir, name, content); err != nil {
			return err
		}
		if err := say(step.Describe(name, content)); err != nil {
			return err
		}
	}
	return nil
}

// writeFileSynced writes one file. On return it survives power loss, and so does its name.
func writeFileSynced(dir, name string, content []byte) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in dir durable.
func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// writeStream overwrites pieces of one file, at random, past the page cache, until it is
// enough, or a write fails: then it returns why.
func writeStream(path string, seed uint64, enough <-chan struct{}) (err error) {
	const (
		piece = 256 << 10
		size  = 64 << 20
	)
	// Direct, so that writes reach the disk one after the other instead of when the
	// kernel finds the time.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	buffer, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory for %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(buffer)) }()
	random := rand.New(rand.NewPCG(seed, ^uint64(0)))
	for {
		select {
		case <-enough:
			return nil
		default:
		}
		for k := range 64 {
			buffer[k*piece/64] = byte(random.Uint32())
		}
		offset := int64(random.IntN(size/piece)) * piece
		if _, err := unix.Pwrite(fd, buffer, offset); err != nil {
			return fmt.Errorf("write %s at %d: %w", path, offset, err)
		}
	}
}
