package metrics

import (
	"testing"
	"time"

	"jnbd/nbd"
)

func TestQuantile(t *testing.T) {
	var l nbd.Latency
	empty := l.Stats()
	before := newHistogram(&empty)
	if got := before.Quantile(0.5); got != 0 {
		t.Errorf("of nothing it is %s", got)
	}
	l.Observe(time.Second, 1000)
	old := l.Stats()
	before = newHistogram(&old)
	l.Observe(100*time.Microsecond, 98)
	l.Observe(10*time.Millisecond, 1)
	l.Observe(time.Hour, 1)
	now := l.Stats()
	all := newHistogram(&now)
	h := all.Since(&before)
	for _, tt := range []struct {
		q           float64
		least, most time.Duration
	}{
		{0, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.5, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.98, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.99, 10 * time.Millisecond, 12500 * time.Microsecond},
		{1, 34 * time.Second, 43 * time.Second}, // the most that is told apart
	} {
		if got := h.Quantile(tt.q); got < tt.least || got > tt.most {
			t.Errorf("quantile %v is %s, want %s to %s", tt.q, got, tt.least, tt.most)
		}
	}
	if h.Count != 100 || len(h.Buckets) != 3 {
		t.Errorf("since then: %+v", h)
	}
	if restarted := before.Since(&all); restarted.Count != before.Count {
		t.Errorf("after a restart: %+v, want all of it", restarted)
	}
}
