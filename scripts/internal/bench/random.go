package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// result is one round of one program.
type result struct {
	iops     float64
	requests int64
	cpu      time.Duration // of the server, while the client was writing
	cpuAll   time.Duration // from its start to its end: with what it did behind
}

// perRequest is CPU time for each request.
func perRequest(cpu time.Duration, requests int64) float64 {
	return cpu.Seconds() * 1e6 / float64(max(requests, 1))
}

// random compares 4 KiB random writes. Both programs serve a whole, warm image on the same
// file system; a server is started for each round and stopped after it, so that nothing of
// one runs in the other's time.
func (c *config) random() error {
	ours, peers := filepath.Join(c.dir, "jnbd.img"), filepath.Join(c.dir, "nbdkit.img")
	for _, image := range []string{ours, peers} {
		if err := writeImage(image, c.disk); err != nil {
			return err
		}
	}
	if out, err := exec.Command(c.jnbd, "create", ours, "--journal-size", "1G").CombinedOutput(); err != nil {
		return fmt.Errorf("jnbd create: %w\n%s", err, out)
	}
	fmt.Printf("4 KiB random writes, depth 32, unix socket, %s disk, %d rounds of %s\n\n", c.disk, c.rounds, c.runtime)
	fmt.Printf("%-8s %14s %14s %18s %18s\n", "round", "jnbd IOPS", "nbdkit IOPS", "jnbd µs CPU/req", "nbdkit µs CPU/req")
	var a, b []result
	for round := range c.rounds {
		j, err := c.measure(func() (*process, error) {
			p, _, err := c.startJnbd(ours)
			return p, err
		})
		if err != nil {
			return err
		}
		n, err := c.measure(func() (*process, error) { return startNbdkit(peers) })
		if err != nil {
			return err
		}
		a, b = append(a, j), append(b, n)
		fmt.Printf("%-8d %14.0f %14.0f %18.2f %18.2f\n", round+1, j.iops, n.iops, perRequest(j.cpu, j.requests), perRequest(n.cpu, n.requests))
	}
	report := func(what string, of func(result) float64) {
		x, y := median(a, of), median(b, of)
		fmt.Printf("%-44s jnbd %10.2f   nbdkit %10.2f   ratio %.2f\n", what, x, y, x/y)
	}
	fmt.Println()
	report("median writes per second", func(r result) float64 { return r.iops })
	report("median µs of server CPU per write", func(r result) float64 { return perRequest(r.cpu, r.requests) })
	report("the same, with start, checkpoint and stop", func(r result) float64 { return perRequest(r.cpuAll, r.requests) })
	return nil
}

// measure is one round: start, write with fio, stop.
func (c *config) measure(start func() (*process, error)) (result, error) {
	p, err := start()
	if err != nil {
		return result{}, err
	}
	defer p.kill()
	before, err := p.cpu()
	if err != nil {
		return result{}, err
	}
	r, err := c.fio(p.uri())
	if err != nil {
		return result{}, err
	}
	after, err := p.cpu()
	if err != nil {
		return result{}, err
	}
	r.cpu = after - before
	r.cpuAll, err = p.stop()
	return r, err
}

// fio writes 4 KiB blocks at random places, 32 at a time, for the given time.
func (c *config) fio(uri string) (result, error) {
	reportPath := filepath.Join(c.dir, "fio.json")
	cmd := exec.Command("fio", "--name=random", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k", "--iodepth=32",
		"--size="+c.disk, "--time_based", fmt.Sprintf("--runtime=%d", max(1, int(c.runtime.Seconds()))), "--output-format=json", "--output="+reportPath)
	if out, err := cmd.CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("fio: %w\n%s", err, out)
	}
	text, err := os.ReadFile(reportPath)
	if err != nil {
		return result{}, fmt.Errorf("fio: %w", err)
	}
	var report struct {
		Jobs []struct {
			Write struct {
				IOPS     float64 `json:"iops"`
				Requests int64   `json:"total_ios"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return result{}, fmt.Errorf("fio: can't read its report: %w\n%s", err, text)
	}
	if len(report.Jobs) != 1 {
		return result{}, fmt.Errorf("fio: its report has %d jobs, want 1", len(report.Jobs))
	}
	return result{iops: report.Jobs[0].Write.IOPS, requests: report.Jobs[0].Write.Requests}, nil
}

// writeImage makes a whole image, every block allocated and in the page cache.
func writeImage(path, size string) error {
	out, err := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=1M", "count="+size, "iflag=count_bytes", "conv=fsync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("write %s: %w\n%s", path, err, out)
	}
	return nil
}

// median is robust against the round in which the machine did something else.
func median(results []result, of func(result) float64) float64 {
	values := make([]float64, len(results))
	for i, r := range results {
		values[i] = of(r)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
