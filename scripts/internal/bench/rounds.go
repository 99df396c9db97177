package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
)

// runRace gives every server the same load in turns, round after round. A server is started
// for each round and stopped after it, so that nothing of one runs in another's time. The
// first round is not counted: it wakes the machine up.
func runRace(c *config, w *workload) error {
	if err := w.race.validate(); err != nil {
		return err
	}
	results := map[key][]result{}
	for round := range c.rounds + 1 {
		for _, s := range w.race.servers {
			passes, err := c.round(s, &w.race)
			if err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
			if round == 0 {
				continue
			}
			for name, r := range passes {
				results[key{s, name}] = append(results[key{s, name}], r)
			}
		}
		fmt.Fprintf(os.Stderr, "bench: %s: round %d of %d\n", w.name, round, c.rounds)
	}
	c.report.addRace(w, results)
	return nil
}

// key is a server in a pass.
type key struct {
	server server
	pass   string
}

// round is all passes of one server.
func (c *config) round(s server, r *race) (map[string]result, error) {
	path, err := c.prepare(s, r.image)
	if err != nil {
		return nil, err
	}
	p, err := c.start(s, path)
	if err != nil {
		return nil, err
	}
	defer p.kill()
	passes := map[string]result{}
	for _, pass := range r.passes {
		measured, err := c.measure(s, p, path, pass)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pass.name, err)
		}
		if pass.name != "" {
			passes[pass.name] = measured
		}
	}
	if err := p.stop(); err != nil {
		return nil, err
	}
	if err := settle(path); err != nil {
		return nil, err
	}
	return passes, c.discard(path, r.image)
}

// measure is one pass.
func (c *config) measure(s server, p *process, path string, pass pass) (result, error) {
	checkpoints, err := c.checkpoints(s, path)
	if err != nil {
		return result{}, err
	}
	before, err := p.use()
	if err != nil {
		return result{}, err
	}
	done, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- p.watchPeak(done) }() // ends with the load
	r, err := pass.load.run(c, p)
	close(done)
	r.peak = float64(<-peak)
	if err != nil {
		return result{}, err
	}
	after, err := p.use()
	if err != nil {
		return result{}, err
	}
	r.server = after.minus(before.cpu)
	r.bytesOnHost = float64(after.written - before.written)
	r.checkpoints, err = c.checkpoints(s, path)
	r.checkpoints -= checkpoints
	return r, err
}

// checkpoints is how many a running server of ours has made.
func (c *config) checkpoints(s server, path string) (int, error) {
	if !s.isOurs() {
		return 0, nil
	}
	out, err := exec.Command(c.jnbd, "info", path, "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("jnbd info: %w", err)
	}
	var info struct {
		Live struct {
			Log struct {
				Checkpoints int `json:"checkpoints"`
			} `json:"log"`
		} `json:"live"`
	}
	err = json.Unmarshal(out, &info)
	return info.Live.Log.Checkpoints, err
}

// settle writes everything of a disk that still waits in the page cache, so that it is not
// written while the next server is measured.
func settle(path string) error {
	for _, name := range []string{path, path + ".jnbd"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// validate finds wants that nothing could ever meet.
func (r *race) validate() error {
	for _, w := range r.wants {
		found := false
		for _, p := range r.passes {
			found = found || p.name == w.pass
		}
		if !found {
			return fmt.Errorf("a ratio is wanted of pass %q, which there is not", w.pass)
		}
	}
	return nil
}
