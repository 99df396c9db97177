package journal

import "sync/atomic"

// gate lets the checkpointer wait for readers without stopping them. A reader takes log
// positions from the overlay and reads them a moment later; their space may be given to new
// frames only when every reader that may still hold such a position is through.
//
// Readers count themselves in one of two generations. The checkpointer, who alone calls
// wait, opens the next generation and waits until the last of the former has left.
type gate struct {
	gen     atomic.Uint32
	inside  [2]atomic.Int64
	drained chan struct{} // capacity 1: the last reader of a closed generation knocks
}

func newGate() *gate { return &gate{drained: make(chan struct{}, 1)} }

// enter is called before the overlay is looked at; its result goes to leave.
func (g *gate) enter() uint32 {
	for {
		gen := g.gen.Load()
		g.inside[gen&1].Add(1)
		if g.gen.Load() == gen {
			return gen
		}
		g.leave(gen) // the generation closed between the two: count in the next
	}
}

// leave is called after the last byte was read from a position found inside.
func (g *gate) leave(gen uint32) {
	if g.inside[gen&1].Add(-1) == 0 && g.gen.Load() != gen {
		select {
		case g.drained <- struct{}{}:
		default:
		}
	}
}

// wait returns when every reader that entered before the call has left.
func (g *gate) wait() {
	old := g.gen.Add(1) - 1
	for g.inside[old&1].Load() != 0 {
		<-g.drained // may be an old knock: look again
	}
}
