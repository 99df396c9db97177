package journal

import (
	"cmp"
	"slices"
)

// Bulk that goes to spare slots past the page cache, from several requests (decision 30):
//
//  1. Queue. Who finds no leader leads: it takes all that wait as one group, and afterwards hands
//     the lead to the first that came meanwhile.
//  2. What lies side by side in the spare area, and slots are given out so, is one write. All of the
//     group is then in the medium, and the next group is received.
//  3. The group's records go into the log together (append.go), and then its callers go on.
//
// So appends come between two groups, and not among writes to the same file: the kernel lets an append
// wait for each of those that is under way, and those that come later behind it.
//
// Who may be waited for by the checkpointer must not queue here: the records of those before it may
// wait for the checkpointer.

// gatherer is the queue, and what its leader needs. The zero value is ready.
type gatherer struct {
	queue

	// The leader's.
	group, written []*pending
	pieces         []piece
	bufs           [][]byte
}

// piece is a contiguous part of a pending's data, and its place: at home, or in the spare area.
type piece struct {
	of   *pending
	p    []byte
	home bool
	off  int64
}

func (p *piece) end() int64 { return p.off + int64(len(p.p)) }

// writeGathered writes p's pieces, which go to spare slots, and submits p. Without written nothing
// refers to the slots, and err is why they could not be written.
func (d *Disk) writeGathered(p *pending, admit func() bool) (written bool, err error) {
	p.admit, p.err, p.unwritten = admit, nil, nil
	g := &d.once.slots.gathering
	if g.add(p) || <-p.turn == leadNow {
		d.leadGroup(g, p)
	}
	if p.unwritten != nil {
		return false, p.unwritten
	}
	return true, p.err
}

// leadGroup takes all that wait through steps 2 and 3, own among them, and hands the lead on.
func (d *Disk) leadGroup(g *gatherer, own *pending) {
	g.group = g.take(g.group[:0], func(*pending) bool { return true })
	d.writeGroup(g)
	g.written = g.written[:0]
	for _, p := range g.group {
		if p.unwritten == nil {
			p.direct.Written()
			g.written = append(g.written, p)
		}
	}
	d.submitAll(g.written)
	for _, p := range g.group {
		if p != own {
			p.turn <- finished
		}
	}
	clear(g.group) // they are their callers' again
	clear(g.written)
	if p := g.next(); p != nil {
		p.turn <- leadNow
	}
}

// writeGroup is step 2. Whose data is not written has the reason in unwritten.
func (d *Disk) writeGroup(g *gatherer) {
	pieces := g.pieces[:0]
	for _, p := range g.group {
		pieces = append(pieces, p.pieces...)
	}
	g.pieces = pieces
	defer clear(pieces) // the data is the callers' again
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	for len(pieces) > 0 {
		n, bufs := 1, append(g.bufs[:0], pieces[0].p)
		for n < len(pieces) && pieces[n].off == pieces[n-1].end() {
			bufs = append(bufs, pieces[n].p)
			n++
		}
		g.bufs = bufs
		off, bytes := pieces[0].off, pieces[n-1].end()-pieces[0].off
		if err := d.writeSlots(bufs, off, bytes); err != nil {
			for _, p := range pieces[:n] {
				p.of.unwritten = err
			}
		}
		clear(bufs)
		pieces = pieces[n:]
	}
}
