package nbd

import "sync/atomic"

// Stats are a server's counters since it started. They are read one by one, so sums over
// them may be off by what happened meanwhile.
type Stats struct {
	Conns        int    // connections open now
	MaxConns     int    // how many may be
	ConnsTotal   uint64 // connections accepted so far
	ConnsRefused uint64 // of these, closed at once because MaxConns were open
	Requests     uint64 // requests received
	Failed       uint64 // of these, answered with an error
	Dropped      uint64 // changes not applied because their connection was gone
	Reads        uint64 // READs answered with data
	Writes       uint64 // WRITEs, TRIMs and WRITE_ZEROES applied
	Flushes      uint64 // FLUSHes and FUA changes answered
	BytesRead    uint64 // payload bytes of reads
	BytesWritten uint64 // payload bytes of writes that were applied
	BufferBytes  int64  // payload and reply buffers held now, at most MaxBufferBytes
}

// counters are what Stats is made of. Each connection has its own, so that connections
// share no cache line; they are added to the export's, or if it never chose one to the
// server's, when it ends.
type counters struct {
	connsTotal, connsRefused atomic.Uint64
	requests, failed         atomic.Uint64
	dropped                  atomic.Uint64
	reads, writes, flushes   atomic.Uint64
	bytesRead, bytesWritten  atomic.Uint64
	latency                  latencies
}

// add adds o, whose connection has ended.
func (n *counters) add(o *counters) {
	n.requests.Add(o.requests.Load())
	n.failed.Add(o.failed.Load())
	n.dropped.Add(o.dropped.Load())
	n.reads.Add(o.reads.Load())
	n.writes.Add(o.writes.Load())
	n.flushes.Add(o.flushes.Load())
	n.bytesRead.Add(o.bytesRead.Load())
	n.bytesWritten.Add(o.bytesWritten.Load())
	n.latency.add(&o.latency)
}

// addTo adds the counters to st.
func (n *counters) addTo(st *Stats) {
	st.Requests += n.requests.Load()
	st.Failed += n.failed.Load()
	st.Dropped += n.dropped.Load()
	st.Reads += n.reads.Load()
	st.Writes += n.writes.Load()
	st.Flushes += n.flushes.Load()
	st.BytesRead += n.bytesRead.Load()
	st.BytesWritten += n.bytesWritten.Load()
}

// Stats returns the server's counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Conns:        len(s.conns),
		MaxConns:     s.maxConns(),
		ConnsTotal:   s.count.connsTotal.Load(),
		ConnsRefused: s.count.connsRefused.Load(),
		BufferBytes:  s.buffers.held(),
	}
	s.count.addTo(&st)
	for _, x := range s.exports {
		x.count.addTo(&st)
	}
	for c := range s.conns {
		c.count.addTo(&st)
	}
	return st
}

// ExportStats are the counters of one export's clients since the server started. Of Stats,
// the fields about accepting and buffers are 0.
type ExportStats struct {
	Name string
	Stats
	latency [commandCount]LatencyStats
}

// Latency is the histogram of a command: of all its requests that were answered.
func (s *ExportStats) Latency(c Command) *LatencyStats { return &s.latency[c] }

// ExportStats returns the counters of each export, in the order of Exports. It waits for
// no request. Before the first Serve there are none.
func (s *Server) ExportStats() []ExportStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]ExportStats, len(s.exports))
	for i, x := range s.exports {
		st := &all[i]
		st.Name = x.Name
		st.addCounters(&x.count)
		for c := range s.conns {
			if c.attached.Load() == x {
				st.Conns++
				st.addCounters(&c.count)
			}
		}
	}
	return all
}

func (s *ExportStats) addCounters(n *counters) {
	n.addTo(&s.Stats)
	for i := range n.latency {
		n.latency[i].addTo(&s.latency[i])
	}
}
