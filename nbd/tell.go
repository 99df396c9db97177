package nbd

import "time"

// What is told of single requests: those that were slow, and with TraceEvery a sample of
// all. Both are off unless the server is asked; then a request costs two comparisons more,
// and the others nothing.
//
// READs that are answered from memory together are timed together (latency.go): of such a
// one it is told only as part of the sample.

// answered counts a request that was received then and whose reply is ready.
func (c *conn) answered(req *request, received time.Time) {
	took := time.Since(received)
	c.count.latency[req.cmd].Observe(took, 1)
	c.perhapsTell(req, took)
}

// perhapsTell tells of a request if that is wanted.
func (c *conn) perhapsTell(req *request, took time.Duration) {
	s := c.server
	kind := RequestSlow
	if s.SlowRequest <= 0 || took < s.SlowRequest {
		if s.TraceEvery <= 0 || s.traced.Add(1)%uint64(s.TraceEvery) != 0 {
			return
		}
		kind = RequestTraced
	}
	s.event(Event{
		Kind: kind, Conn: c.id, Remote: c.remote, Export: c.export.Name,
		Command: Command(req.cmd), Offset: req.offset, Length: req.length, FUA: req.flags&cfFUA != 0, Took: took,
	})
}
