package nbd

import (
	"cmp"
	"sync/atomic"
)

// Besides the pools (buffers.go), a connection has memory of its own: the read buffer and the
// replies that wait. Few connections may each use as much of it as is fast. A thousand may not,
// or clients could make the server as large as they like: the more are attached, the less each
// takes in at a time, collects, and lets wait (P11).
//
// What a connection has touched it keeps, so the share is not a bound at each moment. But of
// the connections that are open, the one whose share was settled first had the others not yet
// beside it, and so on: n of them have at most share(1) + share(2) + … + share(n).

const (
	// maxShare is the share while few are attached: more makes nothing faster.
	maxShare = inputBytes
	// minShare is what every connection may have, however many there are.
	minShare = 8 << 10
	// sharedBytes is divided among the connections.
	sharedBytes = 16 << 20
)

// shareOf is each connection's share, in bytes, when so many are attached.
func shareOf(attached int) int {
	return max(minShare, min(maxShare, sharedBytes/max(attached, 1)))
}

// share counts the attached connections and tells each one's share of memory.
type share struct {
	attached int          // guarded by Server.mu
	now      atomic.Int64 // shareOf(attached), for every reader; 0 before the first
}

// joinLocked and leaveLocked count a connection.
func (s *share) joinLocked()  { s.countLocked(1) }
func (s *share) leaveLocked() { s.countLocked(-1) }

func (s *share) countLocked(more int) {
	s.attached += more
	s.now.Store(int64(shareOf(s.attached)))
}

// bytes is each connection's share.
func (s *share) bytes() int { return int(cmp.Or(s.now.Load(), maxShare)) }

// inPlace is the largest payload that a reader handles itself: it must fit into the share.
func (s *share) inPlace() int { return min(inPlaceBytes, s.bytes()) }
