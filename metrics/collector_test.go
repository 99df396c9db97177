package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

func gather(t *testing.T, state func() *State) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := NewRegistry(state).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// The labels are few and fixed: none names a client or a block.
func TestLabels(t *testing.T) {
	allowed := map[string]bool{"export": true, "command": true, "to": true, "version": true}
	r := newRig(t)
	for name, family := range gather(t, r.source.State) {
		if name[:5] != "jnbd_" { // of the process and of Go
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if !allowed[l.GetName()] {
					t.Errorf("%s has the label %s", name, l.GetName())
				}
			}
		}
	}
}

// Figures arrive unchanged, and a histogram's buckets count what is within them.
func TestCollect(t *testing.T) {
	st := &State{Connections: 3, ConnectionsMax: 8, Disks: []Disk{{
		Export: "d", Poisoned: "gone",
		Log:   Log{UsedBytes: 123, Head: 900, DurableUpTo: 400, LagSeconds: 2.5},
		Spare: Spare{DisplacedBlocks: 7},
		Bytes: Bytes{ClientWritten: 1000, Log: 100, Spare: 950, Amplification: 1.05},
		Commands: []Command{{"write", Histogram{Count: 111, SumSeconds: 3, Buckets: []Bucket{
			{durationBounds()[0], 1}, {durationBounds()[3] * 0.9, 10}, {durationBounds()[23] * 1.25, 100},
		}}}},
	}}}
	families := gather(t, func() *State { return st })
	for name, want := range map[string]float64{
		"jnbd_connections_open":          3,
		"jnbd_connections_max":           8,
		"jnbd_poisoned":                  1,
		"jnbd_log_used_bytes":            123,
		"jnbd_log_not_durable_bytes":     500,
		"jnbd_checkpoint_lag_seconds":    2.5,
		"jnbd_displaced_blocks":          7,
		"jnbd_write_amplification_ratio": 1.05,
	} {
		if f := families[name]; f == nil || f.GetMetric()[0].GetGauge().GetValue() != want {
			t.Errorf("%s: %v, want %v", name, f, want)
		}
	}
	host := map[string]float64{}
	for _, m := range families["jnbd_host_written_bytes_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "to" {
				host[l.GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if len(host) != 5 || host["log"] != 100 || host["spare"] != 950 {
		t.Errorf("bytes to the host: %v", host)
	}
	h := families["jnbd_request_duration_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 111 || h.GetSampleSum() != 3 || len(h.GetBucket()) != 24 {
		t.Fatalf("histogram: %v", h)
	}
	for i, want := range map[int]uint64{0: 1, 2: 1, 3: 11, 23: 11} {
		if got := h.GetBucket()[i].GetCumulativeCount(); got != want {
			t.Errorf("%d within %v s, want %d", got, h.GetBucket()[i].GetUpperBound(), want)
		}
	}
}
