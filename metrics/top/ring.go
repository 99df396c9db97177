package top

import "jnbd/metrics"

// The log's ring, as a strip: each cell is a piece of it, in the order of its offsets, so that
// the live part moves to the right and comes in again at the left.

// cell is what a piece of the ring holds.
type cell uint8

const (
	cellFree    cell = iota
	cellGoing        // a checkpoint is bringing it home
	cellDurable      // behind that, and before the last durable barrier
	cellFresh        // written, and behind the last durable barrier
)

// ring is a strip of cells.
type ring struct {
	cells      []cell
	barrier    []bool
	tail, head int // cells; tail == head and an empty log: tail is before head
}

// newRing cuts the ring into n cells.
func newRing(l *metrics.Log, n int) ring {
	r := ring{cells: make([]cell, n), barrier: make([]bool, n)}
	if l.SizeBytes <= 0 || n == 0 {
		return r
	}
	at := func(pos int64) int { return int(float64(pos%l.SizeBytes) / float64(l.SizeBytes) * float64(n)) }
	r.tail, r.head = at(l.Tail), at(l.Head)
	// Each cell is what its most urgent byte is; positions step by half a cell, so that none is
	// passed over.
	step := max(1, l.SizeBytes/int64(2*n))
	for pos := l.Tail; pos < l.Head; pos += step {
		state := cellDurable
		switch {
		case pos < l.MovingTo:
			state = cellGoing
		case pos >= l.DurableUpTo:
			state = cellFresh
		}
		if i := at(pos); state > r.cells[i] {
			r.cells[i] = state
		}
	}
	if l.Head > l.DurableUpTo {
		r.cells[at(l.Head-1)] = cellFresh
	}
	for _, pos := range l.Barriers {
		if pos > l.Tail && pos <= l.Head {
			r.barrier[at(pos-1)] = true
		}
	}
	return r
}

// String is the strip in characters.
func (r ring) String() string {
	signs := [...]rune{cellFree: '·', cellGoing: '░', cellDurable: '▒', cellFresh: '█'}
	out := make([]rune, len(r.cells))
	for i, c := range r.cells {
		out[i] = signs[c]
	}
	return string(out)
}

// marks is the line below the strip: barriers, tail and head.
func (r ring) marks() string {
	out := make([]rune, len(r.cells))
	for i := range out {
		out[i] = ' '
		if r.barrier[i] {
			out[i] = '╵'
		}
	}
	if len(out) > 0 {
		out[r.tail] = 'T'
		out[r.head] = 'H'
		if r.tail == r.head {
			out[r.head] = '‡'
		}
	}
	return string(out)
}
