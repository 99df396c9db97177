package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd/nbdclient"
)

// recovery measures how long a server takes to be ready, and to answer, with a log that is full of 4 KiB
// frames (P6): once with the log in the page cache, as after kill -9, and once without, as
// after a loss of power.
//
// A log gets full only while the checkpointer can't keep up. Here it can't at all: fill
// runs the engine on a backing that takes no writes, until the log takes none either, and
// then dies.
func recovery(c *config, _ *workload) error {
	const size = 4 << 30
	path := filepath.Join(c.dir, "recovery.img")
	if out, err := exec.Command(c.jnbd, "create", path, "--size", fmt.Sprint(size), "--journal-size", c.log).CombinedOutput(); err != nil {
		return fmt.Errorf("jnbd create: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if out, err := exec.Command(self, "-fill", path).CombinedOutput(); err != nil {
		return fmt.Errorf("fill the log: %w\n%s", err, out)
	}
	out, err := exec.Command(c.jnbd, "info", path, "--json").Output()
	if err != nil {
		return fmt.Errorf("jnbd info: %w", err)
	}
	var info struct {
		LogBytes int64 `json:"log_bytes"`
		Log      struct {
			UsedBytes int64 `json:"used_bytes"`
			Frames    int   `json:"frames"`
		} `json:"log"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("jnbd info: %w", err)
	}
	c.report.say("\n## recovery\n\nReady again: log of %s, %d%% full of 4 KiB writes in %d frames.",
		c.log, info.Log.UsedBytes*100/info.LogBytes, info.Log.Frames)
	var rows [][]string
	for _, cold := range []bool{false, true} {
		name := "log in the page cache"
		if cold {
			name = "log not in the page cache"
			if err := evictAll(path); err != nil {
				return err
			}
		}
		// Read-only changes nothing, so the log is as full the next time.
		row, err := c.recoverOnce(path, "--read-only")
		if err != nil {
			return err
		}
		rows = append(rows, append([]string{name, "read-only"}, row...))
	}
	row, err := c.recoverOnce(path)
	if err != nil {
		return err
	}
	rows = append(rows, append([]string{"log in the page cache", "to write"}, row...))
	c.report.table([]string{"", "opened", "ready after", "first read after"}, rows)
	c.report.say("\nWanted: the first read after less than 1 s.")
	return nil
}

// recoverOnce starts a server on the disk and ends it by kill -9; it tells when that was ready, and
// when it had answered a first read.
func (c *config) recoverOnce(path string, args ...string) ([]string, error) {
	began := time.Now()
	p, ready, err := c.startJnbd(&place{disk: path, socket: path + ".sock"}, args...)
	if err != nil {
		return nil, err
	}
	defer p.kill()
	reads := 0
	_, err = runClient(p.uri(), 1, func() (request, bool) {
		reads++
		return request{command: nbdclient.Read, offset: 1 << 30, length: 4096}, reads == 1
	})
	read := time.Since(began)
	return []string{fmt.Sprintf("%.3f s", ready.Seconds()), fmt.Sprintf("%.3f s", read.Seconds())}, err
}

// fill writes random blocks to the disk at path until its log is full, and ends the
// process as a crash would.
func fill(path string) error {
	backing, err := disk.OpenFile(path, disk.FileOptions{})
	if err != nil {
		return err
	}
	log, err := disk.OpenFile(path+".jnbd", disk.FileOptions{})
	if err != nil {
		return err
	}
	d, err := journal.Open(journal.Parts{Backing: stuck{backing}, Journal: log, Placement: jsuper.Beside}, journal.Options{Memory: 1 << 30})
	if err != nil {
		return err
	}
	var written atomic.Int64
	failed := make(chan error, 1)
	go func() { // ends with the process: the last write waits for space for ever
		block := make([]byte, 4096)
		blocks := backing.Size() / int64(len(block))
		for {
			off := rand.Int64N(blocks) * int64(len(block))
			if err := d.WriteBatch([][]byte{block}, []int64{off}, false, func() bool { return true }); err != nil {
				failed <- err
				return
			}
			written.Add(1)
		}
	}()
	const quiet = 3 * time.Second
	for last := int64(-1); ; {
		select {
		case err := <-failed:
			return err
		case <-time.After(quiet):
		}
		now := written.Load()
		if now == last {
			return nil
		}
		last = now
	}
}

// stuck is a backing that takes no writes.
type stuck struct{ *disk.File }

func (stuck) WriteAt([]byte, int64) (int, error)      { select {} }
func (stuck) WriteVAt([][]byte, int64) (int64, error) { select {} }
func (stuck) Zero(int64, int64, bool) error           { select {} }
