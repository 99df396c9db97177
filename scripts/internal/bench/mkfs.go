package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// mkfs is mkfs.ext4 of a disk of 1 TiB, discard and all, up to the moment when all of it is
// durable. mkfs has a file, by nbdfuse: no kernel's client is needed for that.
func mkfs() workload {
	return workload{name: "mkfs", about: "mkfs.ext4 of a sparse disk of 1 TiB, through nbdfuse; p50 is how long it took", run: runRace, race: race{
		servers: []server{jnbdAuto, nbdkitFile, qemuRaw},
		image:   hugeImage,
		passes:  []pass{{name: steady, load: mkfsLoad{}}},
		wants:   []want{{pass: steady, ours: jnbdAuto, figure: rate}},
	}}
}

type mkfsLoad struct{}

func (mkfsLoad) run(c *config, p *process) (result, error) {
	m, err := mountFuse(filepath.Join(c.dir, "mkfs.mnt"), p.uri())
	if err != nil {
		return result{}, err
	}
	cmd := exec.Command("mkfs.ext4", "-q", "-F", m.path)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, errors.Join(fmt.Errorf("mkfs.ext4: %w\n%s", err, out), m.unmount())
	}
	took := time.Since(began)
	return result{
		requests: 1, rate: 1 / took.Seconds(), took: took, p50: took,
		client: cpu{user: cmd.ProcessState.UserTime(), system: cmd.ProcessState.SystemTime()},
	}, m.unmount()
}
