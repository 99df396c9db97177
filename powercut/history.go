package powercut

import (
	"fmt"
	"slices"
	"sync"
)

// RequestKind is what a client asked for.
type RequestKind uint8

const (
	// Write sends numbered sectors.
	Write RequestKind = iota
	// Zero is WRITE_ZEROES.
	Zero
	// Trim is TRIM.
	Trim
	// Flush is FLUSH.
	Flush
)

// Request is one request of a client, with what became of it. Off and N are whole sectors.
type Request struct {
	Kind   RequestKind
	Off, N int64 // bytes on the served disk
	FUA    bool
	// Sent is a stamp before the first byte left the client, Replied one after success had
	// arrived.
	Sent, Replied int64
	// Over is the stamp from which on it can't happen any more: Replied, or, of a request
	// without a reply, the death of the server. 0: it still may.
	Over int64
	// Seen is when it had been read back from a server that came up after a crash. From
	// then on it must not get lost.
	Seen int64
}

func (q *Request) String() string {
	if q.Kind == Flush {
		return "flush"
	}
	name := [...]string{"write", "zero", "trim"}[q.Kind]
	if q.FUA {
		name += "+fua"
	}
	return fmt.Sprintf("%s of sectors %d to %d", name, q.Off/sectorBytes, (q.Off+q.N)/sectorBytes-1)
}

// changes reports whether the request changes the disk.
func (q *Request) changes() bool { return q.Kind != Flush }

// sectors are the first sector and the one behind the last.
func (q *Request) sectors() (from, to int64) { return q.Off / sectorBytes, (q.Off + q.N) / sectorBytes }

// history collects what clients do. All methods may be called at the same time.
type history struct {
	clock *Clock

	mu       sync.Mutex
	requests []Request // guarded by mu
	replies  int       // guarded by mu
	onReply  func(replies int)
}

// send notes a request that is about to be sent, and returns its number.
func (h *history) send(q Request) (number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q.Sent = h.clock.Next()
	h.requests = append(h.requests, q)
	return uint64(len(h.requests))
}

// reply notes success.
func (h *history) reply(number uint64) {
	h.mu.Lock()
	q := &h.requests[number-1]
	q.Replied = h.clock.Next()
	q.Over = q.Replied
	h.replies++
	replies, tell := h.replies, h.onReply
	h.mu.Unlock()
	if tell != nil {
		tell(replies)
	}
}

// watch has tell called after each reply, with how many there were; nil ends it.
func (h *history) watch(tell func(replies int)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onReply = tell
}

// count is the number of replies so far.
func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replies
}

// serverDied ends all that is under way: nothing that was sent can happen any more.
func (h *history) serverDied() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Next()
	for i := range h.requests {
		if q := &h.requests[i]; q.Over == 0 {
			q.Over = now
		}
	}
}

// stopped notes a server that ended in order: as good as a flush that was sent at began.
func (h *history) stopped(began int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Next()
	h.requests = append(h.requests, Request{Kind: Flush, Sent: began, Replied: now, Over: now})
}

// seen notes what a client has read back.
func (h *history) seen(there []bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Next()
	for i, is := range there {
		if q := &h.requests[i]; is && q.Seen == 0 {
			q.Seen = now
		}
	}
}

// snapshot is a copy of all requests.
func (h *history) snapshot() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.requests)
}
