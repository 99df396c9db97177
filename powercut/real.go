package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// examineReal is the verdict of the real binary on a state, from a plain file in dir:
// `jnbd check` exits with 0, `jnbd serve` serves a good prefix, `jnbd close` leaves the same
// as a raw image.
func (x *examiner) examineReal(jnbd program, dir string, g *crashdisk.Group, c crash) (err error) {
	path := filepath.Join(dir, "state.img")
	defer func() { err = errors.Join(err, removeImages(path)) }()
	if err := writeImages(g, path); err != nil {
		return err
	}
	if err := jnbd.must("check", path); err != nil {
		return err
	}
	s, err := jnbd.serve(path, filepath.Join(dir, "state.sock"), "--log-level", "error")
	if err != nil {
		return err
	}
	content, err := readDisk(s.socket())
	if err == nil {
		_, err = x.judge.decide(content, c)
	}
	if err = errors.Join(err, s.kill()); err != nil {
		return fmt.Errorf("jnbd serve: %w", err)
	}
	if err := jnbd.must("close", path); err != nil {
		return err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(raw) < len(content) || !bytes.Equal(raw[:len(content)], content) {
		return fmt.Errorf("jnbd close: the raw image of %d bytes is not what was served", len(raw))
	}
	return nil
}

// writeImages makes files of a state: the backing is path, a journal beside it path.jnbd.
func writeImages(g *crashdisk.Group, path string) error {
	disks := disksOf(g)
	for i, d := range disks {
		if err := writeImage(d, imagePaths(path)[i]); err != nil {
			return err
		}
	}
	if len(disks) == 1 {
		return nil
	}
	// After a clean stop the backing must not have been written to since (jsuper). The
	// recorded disk had the time of its mount; the copy gets it, too.
	super, err := jsuper.Probe(disks[journalDisk], jsuper.Beside)
	if err != nil || super.Fingerprint.ModTimeNs == 0 {
		return err
	}
	modified := time.Unix(0, super.Fingerprint.ModTimeNs)
	return os.Chtimes(path, modified, modified)
}

// imagePaths are the files of a state, by disk.
func imagePaths(path string) []string { return []string{path, path + ".jnbd"} }

// removeImages removes them, whichever there are.
func removeImages(path string) (err error) {
	for _, p := range imagePaths(path) {
		if e := os.Remove(p); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// writeImage makes a file of one disk, with holes where there are only zeros.
func writeImage(d *crashdisk.Disk, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(d.Size()); err != nil {
		return err
	}
	piece := make([]byte, 64<<10)
	for off := int64(0); off < d.Size(); off += int64(len(piece)) {
		p := piece[:min(int64(len(piece)), d.Size()-off)]
		if _, err := d.ReadAt(p, off); err != nil {
			return err
		}
		if isZero(p) {
			continue
		}
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	return nil
}
