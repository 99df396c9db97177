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

// result is one pass of one server.
type result struct {
	requests    float64       // reads and writes, without flushes
	rate        float64       // of them, a second
	bytes       float64       // that the client moved
	took        time.Duration // of the pass
	p50, p99    time.Duration // of writes, else of reads
	p999        time.Duration
	clientCPU   time.Duration
	serverCPU   time.Duration // while the client was at work
	bytesOnHost float64       // that the server gave the kernel to write to disks
}

// fioJob is what the report says of one job.
type fioJob struct {
	Read    fioSide `json:"read"`
	Write   fioSide `json:"write"`
	Runtime float64 `json:"job_runtime"` // ms
	User    float64 `json:"usr_cpu"`     // percent of the runtime
	System  float64 `json:"sys_cpu"`
}

type fioSide struct {
	IOPS     float64 `json:"iops"`
	Requests float64 `json:"total_ios"`
	Bytes    float64 `json:"io_bytes"`
	Latency  struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// runFio is one run of the client over the whole disk, or for the time of a measurement.
func (c *config) runFio(uri string, args []string) (result, error) {
	path := filepath.Join(c.dir, "fio.json")
	all := []string{
		"--name=bench", "--ioengine=nbd", "--uri=" + uri, "--thread", fmt.Sprintf("--size=%d", c.diskBytes),
		"--percentile_list=50:99:99.9", "--output-format=json", "--output=" + path,
	}
	if slices.Contains(args, timedMark) {
		all = append(all, fmt.Sprintf("--runtime=%d", max(1, int(c.runtime.Seconds()))))
	}
	cmd := exec.Command("fio", append(all, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("fio: %w\n%s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return result{}, fmt.Errorf("fio: %w", err)
	}
	var report struct {
		Jobs []fioJob `json:"jobs"`
	}
	// What fio has to say to people comes first.
	if err := json.Unmarshal(text[max(0, slices.Index(text, '{')):], &report); err != nil {
		return result{}, fmt.Errorf("fio: can't read its report: %w\n%s", err, text)
	}
	if len(report.Jobs) == 0 {
		return result{}, fmt.Errorf("fio: its report has no jobs")
	}
	var r result
	for _, j := range report.Jobs {
		r.add(&j)
	}
	return r, nil
}

// add enters a job: of several, rates add up, and the slowest gives the latency.
func (r *result) add(j *fioJob) {
	r.requests += j.Read.Requests + j.Write.Requests
	r.rate += j.Read.IOPS + j.Write.IOPS
	r.bytes += j.Read.Bytes + j.Write.Bytes
	took := time.Duration(j.Runtime * float64(time.Millisecond))
	r.took = max(r.took, took)
	r.clientCPU += time.Duration(float64(took) * (j.User + j.System) / 100)
	side := &j.Write
	if side.Requests == 0 {
		side = &j.Read
	}
	at := func(p string) time.Duration { return time.Duration(side.Latency.Percentile[p]) }
	r.p50 = max(r.p50, at("50.000000"))
	r.p99 = max(r.p99, at("99.000000"))
	r.p999 = max(r.p999, at("99.900000"))
}

// of is the figure that a want compares.
func (r *result) of(f figure) float64 {
	switch f {
	case serverCPU:
		return r.perRequest(r.serverCPU)
	case hostBytes:
		return r.bytesOnHost / r.bytes
	case worst:
		return float64(r.p999)
	}
	return r.rate
}

// perRequest is CPU time for each request, in microseconds.
func (r *result) perRequest(cpu time.Duration) float64 {
	return cpu.Seconds() * 1e6 / max(r.requests, 1)
}
