package main

import (
	"fmt"
	"os"
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
		measured, err := c.measure(p, pass)
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
	return passes, c.discard(path, r.image)
}

// measure is one pass.
func (c *config) measure(p *process, pass pass) (result, error) {
	before, err := p.use()
	if err != nil {
		return result{}, err
	}
	r, err := c.runFio(p.uri(), pass.fio)
	if err != nil {
		return result{}, err
	}
	after, err := p.use()
	if err != nil {
		return result{}, err
	}
	r.serverCPU = after.cpu - before.cpu
	r.bytesOnHost = float64(after.written - before.written)
	return r, nil
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
