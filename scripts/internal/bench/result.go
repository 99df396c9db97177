package main

import "time"

// load is what a client does to a server for one pass.
type load interface {
	// run fills in what the client can tell of it.
	run(c *config, p *process) (result, error)
}

// result is one pass of one server.
type result struct {
	requests    float64       // reads and writes, without flushes
	rate        float64       // of them, a second
	bytes       float64       // that the client moved
	took        time.Duration // of the pass
	p50, p99    time.Duration // of reads or writes, whichever there were more of
	p999        time.Duration
	client      cpu
	server      cpu     // while the client was at work
	bytesOnHost float64 // that went to the block device from the pass's begin on
	deviceAfter float64 // its counter behind the pass
	peak        float64 // bytes of memory, of the server and its children
	checkpoints int     // of a server of ours, while the client was at work
}

// of is the figure that a want compares.
func (r *result) of(f figure) float64 {
	switch f {
	case serverCPU:
		return r.perRequest(r.server.total())
	case hostBytes:
		return r.bytesOnHost / r.bytes
	case worst:
		return float64(r.p999)
	}
	return r.rate
}

// perRequest is CPU time for each request, in microseconds.
func (r *result) perRequest(cpu time.Duration) float64 {
	return cpu.Seconds() * 1e6 / max(r.requests, 1)
}
