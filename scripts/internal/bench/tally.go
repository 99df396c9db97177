package main

import (
	"math/bits"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/nbd/nbdclient"
)

// tally counts what the client did.
type tally struct {
	requests, bytes float64 // of reads and writes
	flushes         float64
	reads, writes   histogram
	user, system    time.Duration // of the client's thread
	began           time.Time
	took            time.Duration
	// perSecond, if not nil, gets a histogram of all reads and writes for each second.
	perSecond *[]histogram
}

// begin is called by the thread that does the work.
func (t *tally) begin() {
	t.user, t.system = threadCPU()
	t.began = time.Now()
}

func (t *tally) end() {
	t.took = time.Since(t.began)
	user, system := threadCPU()
	t.user, t.system = user-t.user, system-t.system
}

// add counts a request that is answered.
func (t *tally) add(r *request, began, now time.Time) {
	took := now.Sub(began)
	switch r.command {
	case nbdclient.Read:
		t.reads.add(took)
	case nbdclient.Write:
		t.writes.add(took)
	case nbdclient.Flush:
		t.flushes++
		return
	default:
		return
	}
	t.requests++
	t.bytes += float64(r.length)
	if t.perSecond != nil {
		second := int(now.Sub(t.began) / time.Second)
		for len(*t.perSecond) <= second {
			*t.perSecond = append(*t.perSecond, histogram{})
		}
		(*t.perSecond)[second].add(took)
	}
}

// join adds what another connection did in the same time.
func (t *tally) join(other *tally) {
	t.requests += other.requests
	t.bytes += other.bytes
	t.flushes += other.flushes
	t.reads.join(&other.reads)
	t.writes.join(&other.writes)
	t.user += other.user
	t.system += other.system
	t.took = max(t.took, other.took)
}

// result is what a table shows.
func (t *tally) result() result {
	side := &t.writes
	if side.total < t.reads.total {
		side = &t.reads
	}
	return result{
		requests: t.requests, bytes: t.bytes, took: t.took,
		rate: t.requests / t.took.Seconds(),
		p50:  side.percentile(50), p99: side.percentile(99), p999: side.percentile(99.9),
		client: cpu{user: t.user, system: t.system},
	}
}

// threadCPU is what this thread has used.
func threadCPU() (user, system time.Duration) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0, 0
	}
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}

// histogram counts times with an error below 1/64 of each.
type histogram struct {
	counts [64 * 40]uint32
	total  uint64
}

// bucket is where a time belongs: 64 for each power of two.
func bucket(d time.Duration) int {
	n := uint64(max(d, 1))
	if n < 64 {
		return int(n)
	}
	shift := bits.Len64(n) - 7 // leaves 64…127
	return min(64*shift+int(n>>shift), len(histogram{}.counts)-1)
}

// lowest is the shortest time that belongs to a bucket.
func lowest(bucket int) time.Duration {
	if bucket < 128 {
		return time.Duration(bucket)
	}
	shift := bucket/64 - 1
	return time.Duration(64+bucket%64) << shift
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
}

func (h *histogram) join(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// percentile is the time that p of a hundred did not exceed, to the bucket.
func (h *histogram) percentile(p float64) time.Duration {
	rank := max(uint64(float64(h.total)*p/100+0.5), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += uint64(n); seen >= rank {
			return lowest(i)
		}
	}
	return 0
}
