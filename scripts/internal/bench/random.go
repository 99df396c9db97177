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
}

func (l randomWrites) run(c *config, p *process) (result, error) {
	most := min(c.lastingBytes*45/100/logBytes(l.bytes, l.flushEach == 1), mostExtents)
	t, err := runClient(p.uri(), l.depth, l.source(c.diskBytes, most, c.runtime))
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// source gives at most so many writes, and none any more when the time is over.
func (l randomWrites) source(diskBytes, most int64, runtime time.Duration) source {
	rng := rand.New(rand.NewPCG(1, 2))
	deadline := time.Now().Add(runtime)
	writes, flushed := int64(0), true
	return func() (request, bool) {
		if l.flushEach > 0 && writes%int64(l.flushEach) == 0 && !flushed {
			flushed = true
			return request{command: nbdclient.Flush}, true
		}
		if writes == most || writes%64 == 0 && time.Now().After(deadline) {
			return request{}, false
		}
		writes++
		flushed = false
		return request{command: nbdclient.Write, offset: rng.Int64N(diskBytes/l.bytes) * l.bytes, length: int(l.bytes)}, true
	}
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
