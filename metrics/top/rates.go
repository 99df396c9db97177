// Package top draws what a disk does, for a terminal: rates and latencies between two states,
// and the log's ring.
package top

import (
	"time"

	"jnbd/metrics"
)

// Rates are what happened between two states of a disk.
type Rates struct {
	Took    time.Duration
	Read    float64 // bytes a second, by clients
	Written float64
	Host    float64 // bytes a second, written to the host
	// Amplification is Host by Written; 0 if nothing was written.
	Amplification float64
	Commands      []CommandRate // those that came
	Flush         CommandRate
}

// CommandRate is how many of a kind there were a second, and how fast they were.
type CommandRate struct {
	Name          string
	PerSecond     float64
	P50, P99, Max time.Duration
}

// Between is what happened to a disk from the state earlier on, which may be nil or of a
// process before this one: then it is what happened since the start.
func Between(earlier, now *metrics.State, export string) Rates {
	d := now.ByExport(export)
	began, old := now.Started, &metrics.Disk{}
	if earlier != nil && earlier.PID == now.PID && earlier.Started.Equal(now.Started) {
		if e := earlier.ByExport(export); e != nil {
			began, old = earlier.Time, e
		}
	}
	r := Rates{Took: now.Time.Sub(began)}
	seconds := r.Took.Seconds()
	if d == nil || seconds <= 0 {
		return r
	}
	written := float64(d.Bytes.ClientWritten - old.Bytes.ClientWritten)
	host := float64(d.Bytes.Host() - old.Bytes.Host())
	r.Read = float64(d.Bytes.ClientRead-old.Bytes.ClientRead) / seconds
	r.Written, r.Host = written/seconds, host/seconds
	if written > 0 {
		r.Amplification = host / written
	}
	for i := range d.Commands {
		c := &d.Commands[i]
		before := &metrics.Histogram{}
		if i < len(old.Commands) {
			before = &old.Commands[i].Histogram
		}
		if rate := rateOf(c.Name, &c.Histogram, before, seconds); rate.PerSecond > 0 {
			r.Commands = append(r.Commands, rate)
		}
	}
	r.Flush = rateOf("log flush", &d.Flush, &old.Flush, seconds)
	return r
}

func rateOf(name string, now, before *metrics.Histogram, seconds float64) CommandRate {
	h := now.Since(before)
	return CommandRate{
		Name: name, PerSecond: float64(h.Count) / seconds,
		P50: h.Quantile(0.5), P99: h.Quantile(0.99), Max: h.Quantile(1),
	}
}
