package nbd

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A bucket holds what is shorter than its bound and not shorter than the one before, and the
// two are at most a quarter apart.
func TestLatencyBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		took := time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "took"))
		b := latencyBucket(took)
		if b < latencyBuckets-1 && took >= latencyBound(b) {
			t.Errorf("%s is in bucket %d, below %s", took, b, latencyBound(b))
		}
		if b > 0 && took < latencyBound(b-1) {
			t.Errorf("%s is in bucket %d, from %s on", took, b, latencyBound(b-1))
		}
		if b > 0 && b < latencyBuckets-1 && latencyBound(b) > latencyBound(b-1)*5/4 {
			t.Errorf("bucket %d reaches from %s to %s", b, latencyBound(b-1), latencyBound(b))
		}
	})
}

func TestLatencyQuantile(t *testing.T) {
	var l Latency
	before := l.Stats()
	if got := before.Quantile(0.5); got != 0 {
		t.Errorf("of nothing it is %s", got)
	}
	l.Observe(100*time.Microsecond, 98)
	l.Observe(10*time.Millisecond, 1)
	l.Observe(time.Hour, 1)
	st := l.Stats()
	st = st.Since(&before)
	for _, tt := range []struct {
		q           float64
		least, most time.Duration
	}{
		{0, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.5, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.98, 100 * time.Microsecond, 125 * time.Microsecond},
		{0.99, 10 * time.Millisecond, 12500 * time.Microsecond},
		{1, 30 * time.Second, time.Minute}, // the most that is told apart
	} {
		if got := st.Quantile(tt.q); got < tt.least || got > tt.most {
			t.Errorf("quantile %v is %s, want %s to %s", tt.q, got, tt.least, tt.most)
		}
	}
	if st.Count() != 100 || st.Sum != time.Hour+10*time.Millisecond+98*100*time.Microsecond {
		t.Errorf("count %d, sum %s", st.Count(), st.Sum)
	}
	bounds, last := 0, uint64(0)
	st.Cumulative(func(bound time.Duration, count uint64) {
		bounds++
		if count < last || (bound > 10*time.Millisecond && count < 98) {
			t.Errorf("up to %s: %d, after %d", bound, count, last)
		}
		last = count
	})
	if bounds != 24 || last != 99 {
		t.Errorf("%d bounds, %d below the last, want 24 and 99", bounds, last)
	}
}

// Every command that is answered, in whatever way, is counted once in its export's
// histogram, with the time that it waited.
func TestExportStats(t *testing.T) {
	release := make(chan struct{})
	slow := newMemDisk(1 << 20)
	slow.beforeSync = func() { <-release }
	s := &Server{Exports: []Export{{Name: "quiet", Device: newMemDisk(4096)}, {Name: "busy", Device: slow}}}
	path := startServer(t, s)
	c := dial(t, path)
	c.option(optStructuredReply, nil)
	c.mustAck(c.option(optSetMetaContext, metaQuery("busy", "base:allocation")))
	c.chooseExport("busy")

	payload, large := make([]byte, 4096), make([]byte, inPlaceBytes+4096)
	c.send(cmdFlush, 0, 0, 0, nil)
	c.send(cmdWrite, cfFUA, 0, uint32(len(payload)), payload)
	c.must(cmdWrite, 0, 4096, uint32(len(payload)), payload)
	arrived := time.Now() // of flush and FUA, at the latest
	c.must(cmdWrite, 0, 8192, uint32(len(large)), large)
	c.must(cmdTrim, 0, 0, 4096, nil)
	c.must(cmdWriteZeroes, 0, 0, 4096, nil)
	c.must(cmdRead, 0, 0, 4096, nil)
	c.must(cmdRead, 0, 0, uint32(len(large)), nil)
	c.must(cmdCache, 0, 0, 4096, nil)
	c.must(cmdBlockStatus, 0, 0, 4096, nil)
	c.do(cmdTrim, 0, 1<<30, 4096, nil) // refused: never begun, so not in a histogram
	wait := time.Since(arrived)
	close(release)
	c.send(cmdFlush, 0, 0, 0, nil)
	for range 3 {
		if r := c.receive(); r.errno != 0 {
			t.Fatalf("flush: %v", r.errno)
		}
	}

	want := map[Command]uint64{
		CommandRead: 2, CommandWrite: 3, CommandFlush: 2, CommandTrim: 1,
		CommandWriteZeroes: 1, CommandCache: 1, CommandBlockStatus: 1,
	}
	check := func(when string, conns int, requests uint64) {
		t.Helper()
		all := s.ExportStats()
		quiet, busy := &all[0], &all[1]
		if quiet.Name != "quiet" || quiet.Requests != 0 || quiet.Conns != 0 {
			t.Errorf("%s: the export without a client: %+v", when, quiet.Stats)
		}
		if busy.Name != "busy" || busy.Conns != conns || busy.Requests != requests || busy.Failed != 1 {
			t.Errorf("%s: the busy export: %+v", when, busy.Stats)
		}
		for _, command := range Commands() {
			if got := busy.Latency(command).Count(); got != want[command] {
				t.Errorf("%s: %d times %s, want %d", when, got, command, want[command])
			}
		}
		for _, command := range []Command{CommandFlush, CommandWrite} {
			if got := busy.Latency(command).Quantile(1); got < wait {
				t.Errorf("%s: the longest %s took %s, want %s", when, command, got, wait)
			}
		}
		if sum := s.Stats(); sum.Requests != busy.Requests {
			t.Errorf("%s: the server counts %d requests, its export %d", when, sum.Requests, busy.Requests)
		}
	}
	check("while the client is there", 1, 12)
	c.send(cmdDisc, 0, 0, 0, nil)
	c.mustBeClosed()
	awaitConns(t, s, 0)
	check("after it has left", 0, 13) // DISC has no reply, and what it makes durable is no FLUSH
}

func BenchmarkLatencyObserve(b *testing.B) {
	var l Latency
	received := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		l.Observe(time.Since(received), 1)
	}
}
