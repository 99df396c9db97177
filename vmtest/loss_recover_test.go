package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/wal"
)

// recoverTo does to a state what `jnbd check` and then `jnbd serve` do, and writes what the
// disk then reads as to a sparse file.
func recoverTo(c lossCase, g *crashdisk.Group, cut wal.Cut, image string) (err error) {
	parts := c.parts(g)
	if _, err := journal.Inspect(parts, journal.InspectOptions{VerifyAll: true, Direct: true}); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	d, err := journal.Open(parts, journal.Options{Recover: cut})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	defer func() {
		// Nothing is to be brought home: the state is not needed any more.
		done, cancel := context.WithCancel(context.Background())
		cancel()
		_ = d.Close(done) // says that the context has ended
	}()
	size, err := d.Size()
	if err != nil {
		return err
	}
	f, err := createSparse(image, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var copyErr error
	err = d.Extents(0, size, func(off, n int64, _, zero bool) bool {
		if !zero {
			copyErr = copyNonZero(f, d, off, n)
		}
		return copyErr == nil
	})
	return errors.Join(err, copyErr)
}

// parts are the disks of a state, as the engine takes them.
func (c lossCase) parts(g *crashdisk.Group) journal.Parts {
	backing := g.Lookup("disk0")
	if !c.beside {
		return journal.Parts{Backing: backing, Journal: backing, Placement: jsuper.Internal}
	}
	return journal.Parts{Backing: backing, Journal: g.Lookup("disk1"), Placement: jsuper.Beside}
}

// byRealBinary gives a state to the real binary, in plain files: `jnbd check` must find no
// damage, and what `jnbd close` leaves must be what image holds.
func byRealBinary(jnbd string, c lossCase, g *crashdisk.Group, dir, image string) (err error) {
	state := filepath.Join(dir, "state.img")
	defer func() { err = errors.Join(err, os.RemoveAll(state), os.RemoveAll(state+".jnbd")) }()
	parts := c.parts(g)
	size := g.Lookup("disk0").Size()
	if c.beside {
		if err := copyDisk(g.Lookup("disk1"), g.Lookup("disk1").Size(), state+".jnbd"); err != nil {
			return err
		}
	}
	if err := copyDisk(g.Lookup("disk0"), size, state); err != nil {
		return err
	}
	// After a clean stop the backing must not have been written to since.
	if super, err := jsuper.Probe(parts.Journal, parts.Placement); err == nil && super.Fingerprint.ModTimeNs != 0 {
		modified := time.Unix(0, super.Fingerprint.ModTimeNs)
		if err := os.Chtimes(state, modified, modified); err != nil {
			return err
		}
	}
	for _, command := range []string{"check", "close"} {
		if out, err := exec.Command(jnbd, command, state).CombinedOutput(); err != nil {
			return fmt.Errorf("jnbd %s: %w\n%s", command, err, out)
		}
	}
	return sameContent(state, image)
}

// sameContent compares two files, as far as the second goes.
func sameContent(path, want string) error {
	a, err := os.Open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(want)
	if err != nil {
		return err
	}
	defer b.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(q)) {
		n, err := b.ReadAt(q, off)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return nil
		}
		if m, _ := a.ReadAt(p[:n], off); m != n || !bytes.Equal(p[:n], q[:n]) {
			return fmt.Errorf("the raw image after close differs from what was read in [%#x,+%d)", off, n)
		}
	}
}

// copyDisk makes a sparse file of the first size bytes of a disk.
func copyDisk(d *crashdisk.Disk, size int64, path string) (err error) {
	f, err := createSparse(path, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var copyErr error
	err = d.Extents(0, size, func(off, n int64, hole bool) bool {
		if !hole {
			copyErr = copyNonZero(f, d, off, n)
		}
		return copyErr == nil
	})
	return errors.Join(err, copyErr)
}

// createSparse makes a file of size bytes without a single block.
func createSparse(path string, size int64) (*os.File, error) {
	if err := makeSparse(path, size); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// copyNonZero copies [off, off+n), but for pieces that are all zeros.
func copyNonZero(to io.WriterAt, from io.ReaderAt, off, n int64) error {
	piece := make([]byte, min(n, 64<<10))
	for end := off + n; off < end; off += int64(len(piece)) {
		piece = piece[:min(int64(len(piece)), end-off)]
		if _, err := from.ReadAt(piece, off); err != nil {
			return err
		}
		if bytes.Count(piece, []byte{0}) == len(piece) {
			continue
		}
		if _, err := to.WriteAt(piece, off); err != nil {
			return err
		}
	}
	return nil
}
