package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// The latency of small writes while jnbd works behind: each round is one server, measured
// without that work and with it.

// latencyLog is the log of these servers: large enough that what is measured, and what fills
// it to half, stays below the fill at which writers are held back.
const latencyLog = "2G"

// besides is the least that the server must have written by itself while it was to be homing.
const besides = 1 << 20

// latencyCheckpoint measures writes into an empty log, fills it to half, where the checkpointer
// begins, and measures again while that is at work.
func latencyCheckpoint(c *config, w *workload) error {
	writes := func(depth, n int) []string {
		return []string{"--rw=randwrite", "--bs=4k", fmt.Sprintf("--iodepth=%d", depth), fmt.Sprintf("--number_ios=%d", n), "--norandommap", "--randrepeat=0"}
	}
	return c.latency(w, "checkpointing", func(p *process, depth int) (without, with result, err error) {
		n := map[int]int{1: 20_000, 32: 90_000}[depth]
		if without, err = c.runFio(p.uri(), writes(depth, n)); err != nil {
			return
		}
		// 2 GiB hold 240,000 writes to the half.
		if _, err = c.runFio(p.uri(), writes(32, 245_000-n)); err != nil {
			return
		}
		with, err = c.runFio(p.uri(), writes(depth, n))
		return
	})
}

// latencyHoming displaces a quarter of the disk, waits until the idle server brings it home, and
// measures writes from that moment on.
func latencyHoming(c *config, w *workload) error {
	return c.latency(w, "homing", func(p *process, depth int) (without, with result, err error) {
		write := []string{"--rw=randwrite", "--bs=4k", fmt.Sprintf("--iodepth=%d", depth), "--number_ios=4000", "--norandommap", "--randrepeat=0"}
		if without, err = c.runFio(p.uri(), write); err != nil {
			return
		}
		bulk := []string{"--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1", fmt.Sprintf("--io_size=%d", c.diskBytes/4)}
		if _, err = c.runFio(p.uri(), bulk); err != nil {
			return
		}
		if err = p.awaitOwnWrites(besides); err != nil {
			return
		}
		with, err = c.runFio(p.uri(), write)
		return
	})
}

// awaitOwnWrites returns when the server has written that much by itself.
func (p *process) awaitOwnWrites(bytes int64) error {
	before, err := p.use()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		now, err := p.use()
		if err != nil {
			return err
		}
		if now.written-before.written >= bytes {
			return nil
		}
	}
	return errors.New("the server is idle, and brings nothing home")
}

// latency runs the rounds of a measurement at depth 1 and 32, and holds the ratios of their p99
// to the wanted limit.
func (c *config) latency(w *workload, what string, measure func(p *process, depth int) (without, with result, err error)) error {
	c.report.say("\n## %s\n\n%s.", w.name, w.about)
	limit := &want{figure: "p99", atMost: 3}
	var rows [][]string
	for _, depth := range []int{1, 32} {
		var ratios []float64
		var without, with []result
		for round := range c.rounds + 1 {
			path, err := c.prepare(jnbdAuto, wholeImage, "--journal-size", latencyLog)
			if err != nil {
				return err
			}
			p, err := c.start(jnbdAuto, path)
			if err != nil {
				return err
			}
			a, b, err := measure(p, depth)
			if err == nil {
				err = p.stop()
			}
			p.kill()
			if err != nil {
				return err
			}
			if round == 0 {
				continue // it wakes the machine up
			}
			without, with = append(without, a), append(with, b)
			ratios = append(ratios, float64(b.p99)/float64(a.p99))
			fmt.Fprintf(os.Stderr, "bench: %s: depth %d, round %d of %d\n", w.name, depth, round, c.rounds)
		}
		micros := func(all []result) string {
			return fmt.Sprintf("%.0f", median(all, func(r result) float64 { return float64(r.p99) / 1e3 }))
		}
		rows = append(rows, append([]string{fmt.Sprint(depth), micros(without), micros(with)}, c.report.verdict(ratios, limit)...))
	}
	c.report.table([]string{"depth", "p99 µs without " + what, "p99 µs with", "median ratio", "spread", "wanted", ""}, rows)
	return nil
}
