package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/workload"
)

// files performs operations on files, and marks each as done when it is durable: by fsync of
// the file and its directory, or with -points all together by sync(2) and a flush.
func (c *config) files(m *marker) (err error) {
	for _, dir := range workload.Dirs {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := c.point(); err != nil {
		return err
	}
	var bulk *bulkWriter
	if c.bulk {
		if bulk, err = startBulk(filepath.Join(c.dir, "bulk"), c.seed); err != nil {
			return err
		}
	}
	if err := m.mark(workload.Mark{Kind: workload.Begin}); err != nil {
		return err
	}
	for i, op := range workload.Ops(c.seed, c.count) {
		bulk.poke()
		if err := c.perform(op); err != nil {
			return fmt.Errorf("operation %d, %s: %w", i+1, op, err)
		}
		if c.points > 0 && (i+1)%c.points != 0 {
			continue
		}
		if c.points > 0 {
			if err := c.point(); err != nil {
				return err
			}
		}
		if err := m.mark(workload.Mark{Kind: workload.Done, Done: i + 1}); err != nil {
			return err
		}
	}
	return bulk.stop()
}

// point makes durable all that was done: sync(2) writes it, and a flush of the disk ends the
// disk's cache. (sync alone does not flush where there is no journal.)
func (c *config) point() (err error) {
	unix.Sync()
	if c.device == "" {
		return nil
	}
	device, err := os.OpenFile(c.device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(device.Sync(), device.Close())
}

// perform is one operation. Without -points it is durable on return.
func (c *config) perform(op workload.Op) error {
	path, to := filepath.Join(c.dir, op.Name), filepath.Join(c.dir, op.To)
	switch op.Kind {
	case workload.Create:
		if err := c.write(path, os.O_CREATE|os.O_EXCL, op.Content); err != nil {
			return err
		}
	case workload.Extend:
		return c.write(path, os.O_APPEND, op.Content[op.From:])
	case workload.Replace:
		temporary := filepath.Join(c.dir, workload.Temporary(op.Name))
		if err := c.write(temporary, os.O_CREATE|os.O_EXCL, op.Content); err != nil {
			return err
		}
		if err := os.Rename(temporary, path); err != nil {
			return err
		}
	case workload.Rename:
		if err := os.Rename(path, to); err != nil {
			return err
		}
		// The new name first: a crash between the two must not leave neither.
		if err := c.syncDir(filepath.Dir(to)); err != nil {
			return err
		}
	case workload.Remove:
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return c.syncDir(filepath.Dir(path))
}

// write writes to a file and fsyncs it.
func (c *config) write(path string, how int, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|how, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if c.points > 0 {
		return nil
	}
	return f.Sync()
}

// syncDir makes the names in a directory durable.
func (c *config) syncDir(path string) (err error) {
	if c.points > 0 {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bulkWriter writes large pieces all over one file, past the page cache, and syncs nothing:
// the writes that a disk in mode auto or ordered writes once. nil does nothing.
type bulkWriter struct {
	pokes chan struct{}
	ended chan error
}

const (
	bulkPiece = 128 << 10
	bulkBytes = 4 << 20
)

// startBulk makes the file.
func startBulk(path string, seed uint64) (*bulkWriter, error) {
	f, err := openDirect(path)
	if err != nil {
		return nil, err
	}
	buffer, err := alignedMemory(bulkPiece)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w := &bulkWriter{pokes: make(chan struct{}, 1), ended: make(chan error, 1)}
	random := rand.New(rand.NewPCG(seed, 17))
	// Ends with stop, or with the first write that fails.
	go func() {
		var err error
		for range w.pokes {
			for k := range 64 {
				buffer[k*bulkPiece/64] = byte(random.Uint32())
			}
			if _, err = f.WriteAt(buffer, random.Int64N(bulkBytes/bulkPiece)*bulkPiece); err != nil {
				break
			}
		}
		w.ended <- errors.Join(err, f.Close(), unix.Munmap(buffer))
	}()
	return w, nil
}

// poke asks for one piece, unless one is still waiting.
func (w *bulkWriter) poke() {
	if w == nil {
		return
	}
	select {
	case w.pokes <- struct{}{}:
	default:
	}
}

// stop ends it.
func (w *bulkWriter) stop() error {
	if w == nil {
		return nil
	}
	close(w.pokes)
	return <-w.ended
}
