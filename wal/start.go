package wal

import (
	"encoding/binary"
	"time"
)

// link is what a START frame says: which chain it continues, and what begins.
type link struct {
	previous Epoch  // epoch of the chain before
	end      int64  // position where that chain ends
	lastSeq  uint64 // its last sequence number
	epoch    Epoch  // the epoch that begins, as in the header
	node     uint32
}

func (k *link) encode(recs []byte) {
	a, b := halves(k.previous)
	putRecord(recs, recPrevious, false, 0, 0, 0, a, b)
	putRecord(recs[recordBytes:], recChain, false, 0, 0, 0, uint64(k.end), k.lastSeq)
	a, b = halves(k.epoch)
	putRecord(recs[2*recordBytes:], recEpoch, false, 0, 0, k.node, a, b)
}

// decodeLink takes the three records of a START frame, whose form was checked.
func decodeLink(recs []byte) link {
	previous := decodeRecord(recs, 0)
	chain := decodeRecord(recs[recordBytes:], 0)
	epoch := decodeRecord(recs[2*recordBytes:], 0)
	return link{
		previous: joined(previous.A, previous.B),
		end:      int64(chain.A),
		lastSeq:  chain.B,
		epoch:    joined(epoch.A, epoch.B),
		node:     epoch.Aux,
	}
}

// continues says whether the frame with that header and link is what comes after c. A
// chain that is entered at a boundary begins behind the gap that the link knows of.
func (k *link) continues(h *header, c chain) bool {
	return k.previous == c.epoch && k.lastSeq+1 == c.seq && k.lastSeq+1 == h.seq &&
		k.end <= c.pos && alignUp(k.end, SectorBytes) == h.pos &&
		k.epoch == h.epoch && k.node == h.node && k.epoch != k.previous
}

func halves(e Epoch) (a, b uint64) {
	return binary.LittleEndian.Uint64(e[:8]), binary.LittleEndian.Uint64(e[8:])
}

func joined(a, b uint64) Epoch {
	var e Epoch
	binary.LittleEndian.PutUint64(e[:8], a)
	binary.LittleEndian.PutUint64(e[8:], b)
	return e
}

// chain is a place between two frames: where the next one goes and what it must carry.
type chain struct {
	pos   int64
	seq   uint64
	epoch Epoch
}

// firstSeq is the sequence number of the first frame of a log.
const firstSeq = 1

// chainAt is the place that a Start names.
func chainAt(s Start) chain {
	c := chain{pos: s.Tail, seq: s.TailSeq, epoch: s.Epoch}
	if c.seq == 0 && c.epoch.IsZero() {
		c.seq = firstSeq
	}
	return c
}

func timeOf(ns int64) time.Time { return time.Unix(0, ns).UTC() }
