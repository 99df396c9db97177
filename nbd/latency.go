package nbd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latency of a request: from the moment its last byte was received to the moment its reply
// is ready to leave. It is counted without a lock or an allocation:
//
//   - Requests that the reader handles in place share two looks at the clock: the one that
//     comes with their receipt, and one when their replies leave or their batch is applied.
//   - Each connection counts for itself; the sums are made when somebody asks.

// Command is a kind of request, by its number in the protocol.
type Command uint16

// The commands that are counted. DISC is not: it has no reply.
const (
	CommandRead        = Command(cmdRead)
	CommandWrite       = Command(cmdWrite)
	CommandFlush       = Command(cmdFlush)
	CommandTrim        = Command(cmdTrim)
	CommandCache       = Command(cmdCache)
	CommandWriteZeroes = Command(cmdWriteZeroes)
	CommandBlockStatus = Command(cmdBlockStatus)

	commandCount = int(cmdBlockStatus) + 1
)

// Commands are all of them.
func Commands() []Command {
	return []Command{
		CommandRead, CommandWrite, CommandFlush, CommandTrim,
		CommandWriteZeroes, CommandCache, CommandBlockStatus,
	}
}

// String is the command's name, as metrics and logs write it.
func (c Command) String() string {
	switch c {
	case CommandRead:
		return "read"
	case CommandWrite:
		return "write"
	case CommandFlush:
		return "flush"
	case CommandTrim:
		return "trim"
	case CommandCache:
		return "cache"
	case CommandWriteZeroes:
		return "write_zeroes"
	case CommandBlockStatus:
		return "block_status"
	}
	return "unknown"
}

// The buckets of a histogram: one for what takes less than 4 µs, then four for each
// doubling up to 34 s, and one for what takes longer. So a bucket's bounds are at most a
// quarter apart.
const (
	latencyLeastBits = 12 // 2^12 ns is the bound of the first bucket
	latencyMostBits  = 35
	latencySubBits   = 2
	latencyBuckets   = (latencyMostBits-latencyLeastBits)<<latencySubBits + 2
)

// Latency is a histogram of durations. The zero value is empty. Its methods may be called at
// the same time.
type Latency struct {
	buckets [latencyBuckets]atomic.Uint64
	nanos   atomic.Uint64 // their sum
}

// Observe counts n times took.
func (l *Latency) Observe(took time.Duration, n int) {
	took = max(took, 0)
	l.buckets[latencyBucket(took)].Add(uint64(n))
	l.nanos.Add(uint64(took) * uint64(n))
}

// latencyBucket is the bucket of a duration.
func latencyBucket(took time.Duration) int {
	octave := bits.Len64(uint64(took)) - 1
	switch {
	case octave < latencyLeastBits:
		return 0
	case octave >= latencyMostBits:
		return latencyBuckets - 1
	}
	sub := int(took>>(octave-latencySubBits)) & (1<<latencySubBits - 1)
	return 1 + (octave-latencyLeastBits)<<latencySubBits + sub
}

// latencyBound is the duration that a bucket's are all shorter than. The last has none.
func latencyBound(bucket int) time.Duration {
	octave, sub := bucket>>latencySubBits, bucket&(1<<latencySubBits-1)
	least := time.Duration(1) << (latencyLeastBits + octave)
	return least + least>>latencySubBits*time.Duration(sub)
}

// add adds o.
func (l *Latency) add(o *Latency) {
	for i := range l.buckets {
		if n := o.buckets[i].Load(); n > 0 {
			l.buckets[i].Add(n)
		}
	}
	l.nanos.Add(o.nanos.Load())
}

// Stats is what was counted so far.
func (l *Latency) Stats() LatencyStats {
	var st LatencyStats
	l.addTo(&st)
	return st
}

func (l *Latency) addTo(st *LatencyStats) {
	for i := range l.buckets {
		st.buckets[i] += l.buckets[i].Load()
	}
	st.Sum += time.Duration(l.nanos.Load())
}

// LatencyStats are a histogram's figures at one moment.
type LatencyStats struct {
	Sum     time.Duration
	buckets [latencyBuckets]uint64
}

// Count is how many durations were counted.
func (s *LatencyStats) Count() uint64 {
	var n uint64
	for _, b := range s.buckets {
		n += b
	}
	return n
}

// Each calls visit for every bucket that is not empty, shortest first: n durations, shorter
// than bound and at most a quarter shorter. The last bucket holds what took longer, too.
func (s *LatencyStats) Each(visit func(bound time.Duration, n uint64)) {
	for i, n := range s.buckets {
		if n > 0 {
			visit(latencyBound(i), n)
		}
	}
}

// latencies are the histograms of one connection or export, by command.
type latencies [commandCount]Latency

func (l *latencies) add(o *latencies) {
	for i := range l {
		l[i].add(&o[i])
	}
}
