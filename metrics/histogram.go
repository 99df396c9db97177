package metrics

import (
	"time"

	"jnbd/nbd"
)

// Histogram is how long things took.
type Histogram struct {
	Count      uint64   `json:"count"`
	SumSeconds float64  `json:"sum_seconds"`
	Buckets    []Bucket `json:"buckets"` // shortest first, without empty ones
}

// Bucket is a number of durations that are shorter than a bound, by at most a quarter. The
// last that there can be, of 43 s, also has what took longer.
type Bucket struct {
	BoundSeconds float64 `json:"bound_seconds"`
	N            uint64  `json:"n"`
}

func newHistogram(st *nbd.LatencyStats) Histogram {
	h := Histogram{SumSeconds: st.Sum.Seconds(), Buckets: []Bucket{}}
	st.Each(func(bound time.Duration, n uint64) {
		h.Buckets = append(h.Buckets, Bucket{bound.Seconds(), n})
		h.Count += n
	})
	return h
}

// Since is what came after earlier, an older state of the same histogram. If it is not older,
// because the process was started anew, it is h.
func (h *Histogram) Since(earlier *Histogram) Histogram {
	if earlier.Count > h.Count {
		return *h
	}
	d := Histogram{Count: h.Count - earlier.Count, SumSeconds: h.SumSeconds - earlier.SumSeconds}
	old := earlier.Buckets
	for _, b := range h.Buckets {
		for len(old) > 0 && old[0].BoundSeconds < b.BoundSeconds {
			old = old[1:]
		}
		if len(old) > 0 && old[0].BoundSeconds == b.BoundSeconds {
			b.N -= min(old[0].N, b.N)
		}
		if b.N > 0 {
			d.Buckets = append(d.Buckets, b)
		}
	}
	return d
}

// Quantile is a duration that the share q of all, from 0 to 1, did not exceed: the bound of
// the bucket where that is reached. It is 0 if nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank, seen := max(1, uint64(q*float64(h.Count)+0.5)), uint64(0)
	for i, b := range h.Buckets {
		seen += b.N
		if seen >= rank || i == len(h.Buckets)-1 {
			return time.Duration(b.BoundSeconds * float64(time.Second)).Round(time.Nanosecond)
		}
	}
	return 0
}
