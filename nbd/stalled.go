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
//     same pool without credit. It warns them, and closes those that still have none at a
//     look a tick later.
//
// The clock goes on while this process is stopped (SIGSTOP, a debugger, a host that is busy
// elsewhere), and then a client seems silent that could do nothing. So nobody is closed on the
// strength of one look: between the warning and the end this process has run for a tick, and
// what such a client had sent meanwhile has been received.
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
	mu     sync.Mutex
	due    time.Time // when the credit ends; zero while nothing depends on the client
	bytes  int       // of the whole loan
	pool   int       // index of the pool it comes from, or everyPool
	warned bool      // a look found no credit, since there was last as much as can be
}

// begin starts to watch a loan: n bytes that the client must move, n > 0.
func (p *pace) begin(pool, n int) {
	p.mu.Lock()
	p.due, p.bytes, p.pool, p.warned = time.Now().Add(starvedAfter), n, pool, false
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
		p.due, p.warned = most, false
	}
}

// end stops watching.
func (p *pace) end() {
	p.mu.Lock()
	p.due = time.Time{}
	p.mu.Unlock()
}

// overdue is a look: it reports whether the client has used its credit up on a loan of a pool,
// and has been warned. The first time it gets credit for one tick more.
func (p *pace) overdue(pool int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.due.IsZero() || p.pool != everyPool && p.pool != pool || now.Before(p.due) {
		return false
	}
	if !p.warned {
		p.due, p.warned = now.Add(starvedTick), true
		return false
	}
	return true
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
