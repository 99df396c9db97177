package nbd

import (
	"sync"
	"time"
)

// Some loans of memory end only when a client does its part: a payload must come to its
// end, a reply must be taken. What keeps such a client from holding others up:
//
//  1. It may take a further buffer only while twice as much stays free as it then holds, so
//     a few clients never exhaust a pool of many buffers (flight.go, pool.takeBeside).
//  2. While it has such a loan, its pace is watched: whoever receives or sends tells how
//     much moved. Silence uses its credit up in starvedAfter; a trickle does so too, because
//     credit is earned at the rate that moves the whole loan in loanTime.
//  3. Whoever waits for a buffer looks every starvedTick for clients that hold some of the
//     same pool without credit, and closes them.
//
// Nobody is closed for being slow while no other wants the memory.

const (
	// starvedAfter is how long a client may move nothing of a loan that others wait for.
	starvedAfter = 2 * time.Second
	// starvedTick is how often they look.
	starvedTick = 500 * time.Millisecond
	// loanTime is how long the bytes of one loan may be on their way in all, beyond
	// starvedAfter. For the default largest request that is 1 MiB/s.
	loanTime = 32 * time.Second
)

// everyPool says that a pace counts for whatever pool is wanted.
const everyPool = -1

// pace is the credit of a client for what it must send or take.
type pace struct {
	mu    sync.Mutex
	due   time.Time // when the credit ends; zero while nothing depends on the client
	bytes int       // of the whole loan
	pool  int       // index of the pool it comes from, or everyPool
}

// begin starts to watch a loan: n bytes that the client must move, n > 0.
func (p *pace) begin(pool, n int) {
	p.mu.Lock()
	p.due, p.bytes, p.pool = time.Now().Add(starvedAfter), n, pool
	p.mu.Unlock()
}

// moved credits the client with n bytes. It never has more credit than at the start, so
// that an early burst does not pay for a long silence.
func (p *pace) moved(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() {
		return
	}
	earned := time.Duration(float64(n) / float64(p.bytes) * float64(loanTime))
	p.due = p.due.Add(earned)
	if most := time.Now().Add(starvedAfter); p.due.After(most) {
		p.due = most
	}
}

// end stops watching.
func (p *pace) end() {
	p.mu.Lock()
	p.due = time.Time{}
	p.mu.Unlock()
}

// overdue reports whether the client has used its credit up on a loan of a pool.
func (p *pace) overdue(pool int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.due.IsZero() && (p.pool == everyPool || p.pool == pool) && !time.Now().Before(p.due)
}

// closeStalled closes the connections that hold memory of a pool and whose client has used
// its credit up. It is called while others wait for that memory.
func (s *Server) closeStalled(pool int) {
	type end struct {
		c      *conn
		reason string
		cause  error
	}
	s.mu.Lock()
	var stalled []end
	for c := range s.conns {
		switch {
		case !c.flight.holds(pool):
		case c.outbox.pace.overdue(everyPool):
			stalled = append(stalled, end{c, reasonNotReading, errNotReading})
		case c.receiving.overdue(pool):
			stalled = append(stalled, end{c, reasonNotSending, errNotSending})
		}
	}
	s.mu.Unlock()
	for _, e := range stalled {
		e.c.close(e.reason, e.cause)
	}
}
