package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// sustain measures overwrites that never stop: first as long as it takes until log and spare are
// full, then second by second. The picture shows us and the peer that wrote most.
//
// Servers go one after the other here, each once, because what is looked for shows up only after
// minutes. So it says less about small differences than a race.

// sustained are the loads.
func sustained() []workload {
	load := func(name, about string, l randomWrites) workload {
		return workload{name: name, about: about, run: func(c *config, w *workload) error { return c.sustainAll(w, l) }, race: race{
			servers: append([]server{jnbdAuto}, peers...),
			passes:  []pass{{name: steady, bulk: l.bytes >= 1<<20}},
			wants: []want{
				{pass: steady, ours: jnbdAuto, figure: rate, atLeast: 1},
				{pass: steady, ours: jnbdAuto, figure: worst, atMost: 1},
			},
		}}
	}
	return []workload{
		load("sustain-4k", "4 KiB random overwrites, depth 32, that never stop", randomWrites{bytes: 4096, depth: 32}),
		load("sustain-4k-flush", "4 KiB random overwrites, depth 32, a flush each 32, that never stop", randomWrites{bytes: 4096, depth: 32, flushEach: 32}),
		load("sustain-bulk", "1 MiB random overwrites, depth 8, a flush each 64, that never stop; spare for a tenth of the disk", randomWrites{bytes: 1 << 20, depth: 8, flushEach: 64}),
	}
}

// second is what happened in one of them.
type second struct {
	rate           float64
	p50, p99, p999 time.Duration
}

func (c *config) sustainAll(w *workload, l randomWrites) error {
	results := map[key][]result{}
	lines := map[server][]second{}
	best := server("")
	for _, s := range w.race.servers {
		r, line, err := c.sustainOne(s, l)
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		results[key{s, steady}] = []result{r}
		lines[s] = line
		if s.isPeer() && (best == "" || r.rate > results[key{best, steady}][0].rate) {
			best = s
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %s: %.0f/s\n", w.name, s, r.rate)
	}
	c.report.addRace(w, results)
	var rows [][]string
	for _, s := range w.race.servers {
		slowest, latest := lines[s][0], lines[s][0]
		for _, x := range lines[s] {
			if x.rate < slowest.rate {
				slowest = x
			}
			if x.p999 > latest.p999 {
				latest = x
			}
		}
		rows = append(rows, []string{
			string(s), fmt.Sprint(len(lines[s])), fmt.Sprintf("%.0f/s", slowest.rate), fmt.Sprintf("%.1f", float64(latest.p999)/1e6),
		})
	}
	c.report.table([]string{"server", "seconds", "the slowest", "the highest p99.9 of one, ms"}, rows)
	if c.out == "" {
		return nil
	}
	picture := filepath.Join(filepath.Dir(c.out), w.name+".svg")
	c.report.say("\n![%s](%s)", w.about, filepath.Base(picture))
	return os.WriteFile(picture, drawSeconds(w.about, series{string(jnbdAuto), lines[jnbdAuto]}, series{string(best), lines[best]}), 0o644)
}

// sustainOne is one server, from its start to its end.
func (c *config) sustainOne(s server, l randomWrites) (result, []second, error) {
	var createArgs []string
	if s.isOurs() && l.bytes >= 1<<20 {
		createArgs = []string{"--spare", "10%"}
	}
	path, err := c.prepare(s, wholeImage, createArgs...)
	if err != nil {
		return result{}, nil, err
	}
	p, err := c.start(s, path)
	if err != nil {
		return result{}, nil, err
	}
	defer p.kill()
	const noEnd = 1 << 62
	if _, err := runClient(p.uri(), l.depth, l.source(c.diskBytes, noEnd, c.sustain/5, 0)); err != nil {
		return result{}, nil, err
	}
	watched := watchedLoad{randomWrites: l, seconds: &[]histogram{}}
	r, err := c.measure(s, p, &place{disk: path}, pass{load: watched})
	if err != nil {
		return result{}, nil, err
	}
	if err := p.stop(); err != nil {
		return result{}, nil, err
	}
	return r, perSecond(*watched.seconds, c.sustain), settle(path)
}

// watchedLoad is randomWrites for the length of a long run, with a histogram for each second.
type watchedLoad struct {
	randomWrites
	seconds *[]histogram
}

func (l watchedLoad) run(c *config, p *process) (result, error) {
	client, err := dial(p.uri(), l.depth)
	if err != nil {
		return result{}, err
	}
	defer client.close()
	client.tally.perSecond = l.seconds
	t, err := client.run(l.source(c.diskBytes, 1<<62, c.sustain, 1)) // other places than before
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// perSecond is what the histograms come to. What came after the whole seconds of the run is left
// out.
func perSecond(all []histogram, run time.Duration) []second {
	var line []second
	for i := range all[:max(min(len(all), int(run/time.Second)), 1)] {
		h := &all[i]
		line = append(line, second{rate: float64(h.total), p50: h.percentile(50), p99: h.percentile(99), p999: h.percentile(99.9)})
	}
	return line
}
