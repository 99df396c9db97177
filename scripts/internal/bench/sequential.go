package main

import "jnbd/nbd/nbdclient"

// wholeDisk is one pass of our own client over the disk, from its beginning to its end, with a flush
// after each so many writes, and one after the last.
type wholeDisk struct {
	bytes     int64
	depth     int
	flushEach int
}

func (l wholeDisk) run(c *config, p *process) (result, error) {
	t, err := runClient(p.uri(), l.depth, l.source(c.diskBytes))
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// begin is the same in turns, each a whole pass.
func (l wholeDisk) begin(c *config, p *process) (player, error) {
	return (&clients{}).connect(p.uri(), l.depth, []source{l.source(c.diskBytes)})
}

func (l wholeDisk) source(diskBytes int64) source {
	writes, flushed := int64(0), true
	return func() (request, bool) {
		done := writes == diskBytes/l.bytes
		if !flushed && (done || writes%int64(l.flushEach) == 0) {
			flushed = true
			return request{command: nbdclient.Flush}, true
		}
		if done {
			return request{}, false
		}
		writes++
		flushed = false
		return request{command: nbdclient.Write, offset: (writes - 1) * l.bytes, length: int(l.bytes)}, true
	}
}
