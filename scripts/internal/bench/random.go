package main

import (
	"errors"
	"math/rand/v2"
	"time"

	"jnbd/nbd/nbdclient"
)

// randomWrites are writes of our own client at random places, for the time of a measurement or until
// the log that must last is nearly half full.
type randomWrites struct {
	bytes     int64
	depth     int
	flushEach int // a flush after so many writes, in line with them; 0: none
	reads     int // so many of a hundred are reads
	conns     int // that do this at the same time, with such a depth each; 0: one
}

// run is one turn, as long as the measurement.
func (l randomWrites) run(c *config, p *process) (result, error) {
	all, err := l.connect(c, p, c.runtime)
	if err != nil {
		return result{}, err
	}
	_, err = all.turn()
	r, ended := all.end()
	return r, errors.Join(err, ended)
}

// begin is many short ones.
func (l randomWrites) begin(c *config, p *process) (player, error) {
	return l.connect(c, p, turnLength)
}

func (l randomWrites) connect(c *config, p *process, turn time.Duration) (*clients, error) {
	conns := max(l.conns, 1)
	most := min(c.lastingBytes*45/100/logBytes(l.bytes, l.flushEach == 1), mostExtents)
	var sources []source
	for i := range conns {
		sources = append(sources, l.source(c.diskBytes, most/int64(conns), readyTimeout, uint64(i)))
	}
	return (&clients{length: turn, left: c.runtime}).connect(p.uri(), l.depth, sources)
}

// source gives at most so many writes, and none any more when the time is over. Every seed has
// other places.
func (l randomWrites) source(diskBytes, most int64, runtime time.Duration, seed uint64) source {
	rng := rand.New(rand.NewPCG(1, 2+seed))
	var deadline time.Time // counts from the first request: some servers take long to connect
	n, writes, flushed := 0, int64(0), true
	return func() (request, bool) {
		if deadline.IsZero() {
			deadline = time.Now().Add(runtime)
		}
		if l.flushEach > 0 && writes%int64(l.flushEach) == 0 && !flushed {
			flushed = true
			return request{command: nbdclient.Flush}, true
		}
		if writes == most || n%64 == 0 && time.Now().After(deadline) {
			return request{}, false
		}
		n++
		if l.reads > 0 && rng.IntN(100) < l.reads {
			return request{command: nbdclient.Read, offset: rng.Int64N(diskBytes/l.bytes) * l.bytes, length: int(l.bytes)}, true
		}
		writes++
		flushed = false
		return request{command: nbdclient.Write, offset: rng.Int64N(diskBytes/l.bytes) * l.bytes, length: int(l.bytes)}, true
	}
}

// writeShare writes so many tenths of the disk's blocks, each once, here and there.
type writeShare struct{ tenths int64 }

func (l writeShare) run(c *config, p *process) (result, error) {
	const block, stride = 4096, 7919 // a prime: no block comes twice
	blocks, n := c.diskBytes/block, int64(0)
	t, err := runClient(p.uri(), 32, func() (request, bool) {
		n++
		return request{command: nbdclient.Write, offset: n * stride % blocks * block, length: block}, n <= blocks*l.tenths/10
	})
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// runClient is one connection of our own client, from beginning to end.
func runClient(uri string, depth int, from source) (*tally, error) {
	client, err := dial(uri, depth)
	if err != nil {
		return nil, err
	}
	t, err := client.run(from)
	return t, errors.Join(err, client.close())
}
