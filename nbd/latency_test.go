package nbd

import (
	"slices"
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

func TestLatencyStats(t *testing.T) {
	var l Latency
	empty := l.Stats()
	empty.Each(func(bound time.Duration, n uint64) { t.Errorf("nothing was counted: %d up to %s", n, bound) })
	l.Observe(100*time.Microsecond, 98)
	l.Observe(10*time.Millisecond, 1)
	l.Observe(time.Hour, 1)
	st := l.Stats()
	if st.Count() != 100 || st.Sum != time.Hour+10*time.Millisecond+98*100*time.Microsecond {
		t.Errorf("count %d, sum %s", st.Count(), st.Sum)
	}
	var got []uint64
	st.Each(func(_ time.Duration, n uint64) { got = append(got, n) })
	if !slices.Equal(got, []uint64{98, 1, 1}) {
		t.Errorf("buckets that are not empty: %d", got)
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
			var longest time.Duration
			busy.Latency(command).Each(func(bound time.Duration, _ uint64) { longest = bound })
			if longest < wait {
				t.Errorf("%s: the longest %s took %s, want %s", when, command, longest, wait)
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
