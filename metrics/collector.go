package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics of Prometheus. All of a disk carry the label "export" and, where it says so, one
// more of a few fixed values; none carries a client or a block.

// durationBounds are the buckets of histograms: from 4 µs, doubling, to 34 s. A bucket of ours
// never lies across one of them.
func durationBounds() []float64 {
	bounds := make([]float64, 0, 24)
	for bound := time.Duration(1) << 12; bound <= 1<<35; bound *= 2 {
		bounds = append(bounds, bound.Seconds())
	}
	return bounds
}

// metric is one family: its figures are made from a disk, or from the process.
type metric struct {
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	process func(*State) float64
	disk    func(*Disk) float64
	parts   func(*Disk, func(value float64, label string)) // with one more label
}

func ofDisk(kind prometheus.ValueType, name, help string, value func(*Disk) float64) metric {
	return metric{desc: prometheus.NewDesc(name, help, []string{"export"}, nil), kind: kind, disk: value}
}

func ofProcess(kind prometheus.ValueType, name, help string, value func(*State) float64) metric {
	return metric{desc: prometheus.NewDesc(name, help, nil, nil), kind: kind, process: value}
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// metrics is the table of all that are single figures.
func metrics() []metric {
	written := metric{
		desc: prometheus.NewDesc("jnbd_host_written_bytes_total",
			"Bytes written to the host, by where they went: log, home (checkpoints and homing), in_place (once, to empty homes), spare (once, to spare slots), state (superblock and write-once state).",
			[]string{"export", "to"}, nil),
		kind: counter,
		parts: func(d *Disk, emit func(float64, string)) {
			emit(float64(d.Bytes.Log), "log")
			emit(float64(d.Bytes.Home), "home")
			emit(float64(d.Bytes.InPlace), "in_place")
			emit(float64(d.Bytes.Spare), "spare")
			emit(float64(d.Bytes.State), "state")
		},
	}
	return []metric{
		ofProcess(gauge, "jnbd_connections_open", "Open connections of clients, also those that still negotiate.",
			func(s *State) float64 { return float64(s.Connections) }),
		ofProcess(gauge, "jnbd_connections_max", "How many connections may be open (--max-connections).",
			func(s *State) float64 { return float64(s.ConnectionsMax) }),
		ofProcess(counter, "jnbd_connections_accepted_total", "Connections accepted.",
			func(s *State) float64 { return float64(s.ConnectionsTotal) }),
		ofProcess(counter, "jnbd_connections_refused_total", "Connections closed at once because too many were open.",
			func(s *State) float64 { return float64(s.ConnectionsRefused) }),
		ofProcess(gauge, "jnbd_buffer_bytes", "Payloads and replies in memory.",
			func(s *State) float64 { return float64(s.BufferBytes) }),

		ofDisk(gauge, "jnbd_poisoned", "1 if the disk takes no changes any more, because a write or flush of journal or backing has failed; only a restart helps.",
			func(d *Disk) float64 { return truth(d.Poisoned != "") }),
		ofDisk(gauge, "jnbd_host_full", "1 if nothing goes home from the log, because the host has no space; writers wait once the log is full.",
			func(d *Disk) float64 { return truth(d.HostFull != "") }),
		ofDisk(gauge, "jnbd_disk_size_bytes", "Size of the disk.",
			func(d *Disk) float64 { return float64(d.SizeBytes) }),
		ofDisk(gauge, "jnbd_connections", "Connections that are attached to the export.",
			func(d *Disk) float64 { return float64(d.Connections) }),
		ofDisk(counter, "jnbd_requests_total", "Requests received.",
			func(d *Disk) float64 { return float64(d.Requests) }),
		ofDisk(counter, "jnbd_requests_failed_total", "Requests answered with an error.",
			func(d *Disk) float64 { return float64(d.Failed) }),
		ofDisk(counter, "jnbd_requests_dropped_total", "Changes not made because their connection was gone before their turn.",
			func(d *Disk) float64 { return float64(d.Dropped) }),

		ofDisk(counter, "jnbd_client_read_bytes_total", "Bytes that clients have read.",
			func(d *Disk) float64 { return float64(d.Bytes.ClientRead) }),
		ofDisk(counter, "jnbd_client_written_bytes_total", "Bytes that clients have written.",
			func(d *Disk) float64 { return float64(d.Bytes.ClientWritten) }),
		written,
		ofDisk(gauge, "jnbd_write_amplification_ratio", "Bytes written to the host for each byte written by clients, since the start; 0 before the first.",
			func(d *Disk) float64 { return d.Bytes.Amplification }),

		ofDisk(gauge, "jnbd_log_size_bytes", "Size of the log.",
			func(d *Disk) float64 { return float64(d.Log.SizeBytes) }),
		ofDisk(gauge, "jnbd_log_used_bytes", "Bytes of the log that a checkpoint has not freed.",
			func(d *Disk) float64 { return float64(d.Log.UsedBytes) }),
		ofDisk(gauge, "jnbd_log_not_durable_bytes", "Bytes of the log behind the last durable barrier.",
			func(d *Disk) float64 { return float64(max(0, d.Log.Head-d.Log.DurableUpTo)) }),
		ofDisk(gauge, "jnbd_not_home_bytes", "Bytes of the disk whose newest version is only in the log.",
			func(d *Disk) float64 { return float64(d.Log.NotHomeBytes) }),
		ofDisk(gauge, "jnbd_checkpoint_lag_seconds", "Age of the oldest change that no checkpoint has covered.",
			func(d *Disk) float64 { return d.Log.LagSeconds }),
		ofDisk(counter, "jnbd_checkpoints_total", "Batches of checkpoints.",
			func(d *Disk) float64 { return float64(d.Log.Checkpoints) }),
		ofDisk(counter, "jnbd_flushes_total", "Flushes of the log.",
			func(d *Disk) float64 { return float64(d.Log.Flushes) }),
		ofDisk(gauge, "jnbd_barrier_seq", "Sequence number of the last durable barrier.",
			func(d *Disk) float64 { return float64(d.Log.BarrierSeq) }),
		ofDisk(gauge, "jnbd_barrier_timestamp_seconds", "When the last durable barrier was made, in seconds since 1970; 0 for never.",
			func(d *Disk) float64 { return unixSeconds(d.Log.BarrierTime) }),

		ofDisk(gauge, "jnbd_displaced_blocks", "Blocks of 4 KiB whose current version is in a spare slot.",
			func(d *Disk) float64 { return float64(d.Spare.DisplacedBlocks) }),
		ofDisk(gauge, "jnbd_spare_size_bytes", "Size of the spare area.",
			func(d *Disk) float64 { return float64(d.Spare.SizeBytes) }),
		ofDisk(gauge, "jnbd_spare_used_bytes", "Bytes of the spare area in use, also by what waits for a barrier.",
			func(d *Disk) float64 { return float64(d.Spare.UsedBytes) }),
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unixSeconds(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

// collector makes metrics of one State for each question.
type collector struct {
	state   func() *State
	metrics []metric
	request *prometheus.Desc
	flush   *prometheus.Desc
	build   *prometheus.Desc
	bounds  []float64
}

// NewRegistry is a registry of its own with jnbd's metrics, and those of process and Go
// runtime. state is called for each question.
func NewRegistry(state func() *State) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{
			state:   state,
			metrics: metrics(),
			request: prometheus.NewDesc("jnbd_request_duration_seconds",
				"Time from the last byte of a request to its reply, by command; of a write with FUA until it is durable.",
				[]string{"export", "command"}, nil),
			flush: prometheus.NewDesc("jnbd_flush_duration_seconds",
				"Time that the devices took for a flush of the log.", []string{"export"}, nil),
			build:  prometheus.NewDesc("jnbd_build_info", "1, with the version.", []string{"version"}, nil),
			bounds: durationBounds(),
		},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
	)
	return r
}

// Describe sends the families.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		out <- m.desc
	}
	out <- c.request
	out <- c.flush
	out <- c.build
}

// Collect sends the figures of one moment.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	st := c.state()
	out <- prometheus.MustNewConstMetric(c.build, gauge, 1, st.Version)
	for _, m := range c.metrics {
		if m.process != nil {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.process(st))
		}
	}
	for i := range st.Disks {
		c.collectDisk(out, &st.Disks[i])
	}
}

func (c *collector) collectDisk(out chan<- prometheus.Metric, d *Disk) {
	for _, m := range c.metrics {
		switch {
		case m.disk != nil:
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.disk(d), d.Export)
		case m.parts != nil:
			m.parts(d, func(value float64, label string) {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, d.Export, label)
			})
		}
	}
	for i := range d.Commands {
		h := &d.Commands[i].Histogram
		out <- prometheus.MustNewConstHistogram(c.request, h.Count, h.SumSeconds, c.cumulative(h), d.Export, d.Commands[i].Name)
	}
	out <- prometheus.MustNewConstHistogram(c.flush, d.Flush.Count, d.Flush.SumSeconds, c.cumulative(&d.Flush), d.Export)
}

// cumulative is how many of h are within each bound.
func (c *collector) cumulative(h *Histogram) map[float64]uint64 {
	within := make(map[float64]uint64, len(c.bounds))
	seen, next := uint64(0), 0
	for _, bound := range c.bounds {
		for next < len(h.Buckets) && h.Buckets[next].BoundSeconds <= bound {
			seen += h.Buckets[next].N
			next++
		}
		within[bound] = seen
	}
	return within
}
