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

// fioLoad is fio's nbd engine, over the whole disk, or for the time of a measurement.
type fioLoad []string

func (l fioLoad) run(c *config, p *process) (result, error) { return c.runFio(p.uri(), l) }

// lastingLoad is a fioLoad of writes that ends with the time of a measurement, and earlier when
// the log that must last is nearly half full: from there on it is brought home.
type lastingLoad struct {
	args     fioLoad
	jobs     int64 // of fio
	bytes    int64 // of a write
	logBytes int64 // that a write takes at most in the log
}

func (l lastingLoad) run(c *config, p *process) (result, error) {
	writes := min(c.lastingBytes*45/100/l.logBytes, mostExtents)
	more := []string{fmt.Sprintf("--io_size=%d", writes/l.jobs*l.bytes), fmt.Sprintf("--runtime=%d", c.seconds())}
	return c.runFio(p.uri(), append(more, l.args...))
}

// mostExtents is how many pieces of the disk may wait in the log before the default of
// serve --memory asks for some to be brought home.
const mostExtents = 600_000

// runFio is one run of fio.
func (c *config) runFio(uri string, args []string) (result, error) {
	path := filepath.Join(c.dir, "fio.json")
	all := []string{
		"--name=bench", "--ioengine=nbd", "--uri=" + uri, "--thread", fmt.Sprintf("--size=%d", c.diskBytes),
		"--percentile_list=50:99:99.9", "--output-format=json", "--output=" + path,
	}
	if slices.Contains(args, timedMark) {
		all = append(all, fmt.Sprintf("--runtime=%d", c.seconds()))
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

// seconds is the length of a measurement, as fio takes it.
func (c *config) seconds() int { return max(1, int(c.runtime.Seconds())) }

// add enters a job: of several, rates add up, and the slowest gives the latency.
func (r *result) add(j *fioJob) {
	r.requests += j.Read.Requests + j.Write.Requests
	r.rate += j.Read.IOPS + j.Write.IOPS
	r.bytes += j.Read.Bytes + j.Write.Bytes
	took := time.Duration(j.Runtime * float64(time.Millisecond))
	r.took = max(r.took, took)
	r.client = r.client.plus(cpu{user: time.Duration(float64(took) * j.User / 100), system: time.Duration(float64(took) * j.System / 100)})
	side := &j.Write
	if side.Requests < j.Read.Requests {
		side = &j.Read
	}
	at := func(p string) time.Duration { return time.Duration(side.Latency.Percentile[p]) }
	r.p50 = max(r.p50, at("50.000000"))
	r.p99 = max(r.p99, at("99.000000"))
	r.p999 = max(r.p999, at("99.900000"))
}
