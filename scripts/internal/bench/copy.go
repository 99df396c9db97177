package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// copyLoad is nbdcopy of the whole disk: from an image in the page cache with a flush at the end, or
// to nowhere. It opens several connections where the server allows that.
type copyLoad struct{ out bool }

func (l copyLoad) run(c *config, p *process) (result, error) {
	args := []string{"--no-extents", p.uri(), "null:"}
	if !l.out {
		from := filepath.Join(c.dir, "from.img")
		if _, err := os.Stat(from); err != nil {
			if err := writeImage(from, c.diskBytes); err != nil {
				return result{}, err
			}
		}
		args = []string{"--flush", "--sparse=0", from, p.uri()}
	}
	cmd := exec.Command("nbdcopy", args...)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("nbdcopy: %w\n%s", err, out)
	}
	took := time.Since(began)
	const requestBytes = 256 << 10 // nbdcopy's default
	requests := float64(c.diskBytes) / requestBytes
	return result{
		requests: requests, rate: requests / took.Seconds(), bytes: float64(c.diskBytes), took: took,
		client: cpu{user: cmd.ProcessState.UserTime(), system: cmd.ProcessState.SystemTime()},
	}, nil
}
