package nbd

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// How replies leave:
//
//  1. The reader collects the replies of what it does in place, and hands them over with
//     send when it runs out of requests. Workers and flushes post theirs.
//  2. Whoever finds nobody sending becomes the sender. It takes all that waits and makes
//     one write call that does not block.
//  3. What the socket did not take is left to a goroutine, which is the sender from then
//     on and may block. So a client that does not read holds this one goroutine, and no
//     worker, no flush and no other connection.
//  4. While too much waits, send makes the reader wait: requests are then not read any
//     more. What the others may post is bounded by what is in flight (flight.go).
//
// mu is never held across a write; "sending" is what keeps senders apart (I12).

// maxVectors is how many pieces one write call is given; the host takes up to 1,024.
const maxVectors = 256

// maxPlainWrite bounds a write without a socket to look at, so that the pace of a slow
// client shows: such a write returns only when all of it was taken.
const maxPlainWrite = 16 << 10

// outbox is the sending half of a connection.
type outbox struct {
	nc       net.Conn
	share    *share          // how much may wait before the reader waits, in bytes of small replies
	raw      syscall.RawConn // nil: nc has no socket, or bytes must pass through nc (TLS)
	gathered []byte          // without raw: room for pieces that are written together

	mu      sync.Mutex
	changed sync.Cond // the sender took what waited, or stopped
	sending bool      // somebody is the sender
	failed  error     // set once; nothing is sent from then on
	small   []byte    // encoded replies that wait
	large   []*op     // replies with buffers of their own that wait

	// Owned by the sender.
	taken   []byte   // small replies on their way
	ops     []*op    // large replies on their way; they land when iov is empty
	iov     [][]byte // what is still to be written of taken and ops, a window of vectors
	vectors [][]byte
	block   bool
	broken  error                 // why writing failed
	tryFunc func(fd uintptr) bool // b.try, bound once so that a send allocates nothing

	pace pace // of a write that may block
}

// init ties the outbox to its connection.
func (b *outbox) init(nc net.Conn, raw syscall.RawConn, share *share) {
	b.nc, b.raw, b.share = nc, raw, share
	b.changed.L = &b.mu
	b.tryFunc = b.try
}

// sendThrough makes all bytes pass through nc, which is no socket. Nothing was sent yet.
func (b *outbox) sendThrough(nc net.Conn) { b.nc, b.raw = nc, nil }

// send sends p and what waits. It returns before all of it is sent only while the backlog
// is within its bound. p is the caller's again on return. An error means that nothing
// can be sent any more.
func (b *outbox) send(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.sending && b.failed == nil && len(b.small)+len(p) > b.share.bytes() {
		b.changed.Wait()
	}
	if b.failed != nil {
		return b.failed
	}
	if b.sending || len(b.small) > 0 || len(b.large) > 0 {
		b.small = append(b.small, p...)
		b.startLocked()
		return b.failed
	}
	if len(p) == 0 {
		return nil
	}
	// The common case: p goes out from where it lies.
	b.sending = true
	b.mu.Unlock()
	b.vectors = append(b.vectors[:0], p)
	b.iov = b.vectors
	done := b.write(false)
	if !done { // p is the caller's: the rest must move
		b.taken = append(b.taken[:0], b.iov[0]...)
		b.iov[0] = b.taken
	}
	b.mu.Lock()
	if done {
		b.sendWaitingLocked()
	} else {
		go b.sendBlocking() // ends when nothing waits, or when the connection is closed
	}
	return b.failed
}

// post adds an encoded reply of a few bytes without sending it; kick follows. It never
// blocks and does not keep p.
func (b *outbox) post(p []byte) {
	b.mu.Lock()
	if b.failed == nil {
		b.small = append(b.small, p...)
	}
	b.mu.Unlock()
}

// postOp adds o's reply, which lies in o.parts. The outbox owns o from here on and lets it
// land when it is sent, or when nothing can be sent any more. kick follows.
func (b *outbox) postOp(o *op) {
	b.mu.Lock()
	if b.failed == nil {
		b.large = append(b.large, o)
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	o.land()
}

// kick sends what waits, as far as that goes without blocking.
func (b *outbox) kick() {
	b.mu.Lock()
	b.startLocked()
	b.mu.Unlock()
}

// startLocked makes the caller the sender if there is none and something waits.
func (b *outbox) startLocked() {
	if b.sending || b.failed != nil || len(b.small) == 0 && len(b.large) == 0 {
		return
	}
	b.sending = true
	b.sendWaitingLocked()
}

// sendWaitingLocked sends what waits without blocking, until nothing does. The caller is
// the sender; afterwards it is not: nobody is, or a goroutine that may block.
func (b *outbox) sendWaitingLocked() {
	for b.takeLocked() {
		b.mu.Unlock()
		done := b.write(false)
		b.mu.Lock()
		if !done {
			go b.sendBlocking() // ends when nothing waits, or when the connection is closed
			return
		}
	}
}

// sendBlocking is the sender until nothing waits.
func (b *outbox) sendBlocking() {
	for more := true; more; {
		b.write(true)
		b.mu.Lock()
		more = b.takeLocked()
		b.mu.Unlock()
	}
}

// takeLocked makes what waits the sender's next write. When nothing waits, or nothing can
// be sent any more, the caller is the sender no longer and it reports false.
func (b *outbox) takeLocked() bool {
	if b.failed == nil {
		b.failed = b.broken
	}
	if b.failed != nil {
		b.dropLocked()
	}
	if len(b.small) == 0 && len(b.large) == 0 {
		b.sending = false
		b.changed.Broadcast()
		return false
	}
	b.taken, b.small = b.small, b.taken[:0]
	b.ops, b.large = b.large, b.ops[:0]
	b.vectors = b.vectors[:0]
	if len(b.taken) > 0 {
		b.vectors = append(b.vectors, b.taken)
	}
	for _, o := range b.ops {
		b.vectors = append(b.vectors, o.parts...)
	}
	b.iov = b.vectors
	b.changed.Broadcast()
	return true
}

// dropLocked drops what waits: it can't be sent.
func (b *outbox) dropLocked() {
	for i, o := range b.large {
		b.large[i] = nil
		o.land()
	}
	b.small, b.large = nil, nil
}

// write writes b.iov. It reports whether the write is over: all is sent or the connection
// failed. Without block it stops when the socket is full. Only the sender calls it.
func (b *outbox) write(block bool) (over bool) {
	b.block = block
	if block {
		b.pace.begin(everyPool, b.unsent())
		defer b.pace.end()
	}
	switch {
	case b.broken != nil:
	case b.raw != nil:
		if err := b.raw.Write(b.tryFunc); err != nil && b.broken == nil {
			b.broken = err
		}
	case block:
		for len(b.iov) > 0 && b.broken == nil {
			var n int
			n, b.broken = b.nc.Write(b.nextPlain())
			b.advance(n)
		}
	}
	if len(b.iov) > 0 && b.broken == nil {
		return false
	}
	for i, o := range b.ops {
		b.ops[i] = nil
		o.land()
	}
	b.ops = b.ops[:0]
	return true
}

// nextPlain is what the next write without a socket takes: pieces of b.iov, copied together
// where the first is short, because each such write is a record of TLS.
func (b *outbox) nextPlain() []byte {
	if len(b.iov[0]) >= maxPlainWrite || len(b.iov) == 1 {
		return b.iov[0][:min(len(b.iov[0]), maxPlainWrite)]
	}
	if b.gathered == nil {
		b.gathered = make([]byte, 0, maxPlainWrite)
	}
	b.gathered = b.gathered[:0]
	for _, p := range b.iov {
		room := maxPlainWrite - len(b.gathered)
		if room == 0 {
			break
		}
		b.gathered = append(b.gathered, p[:min(len(p), room)]...)
	}
	return b.gathered
}

// try makes write calls until all is sent, or the socket is full and b.block is not set.
// It is called by raw.Write, which waits for room when it reports false.
func (b *outbox) try(fd uintptr) bool {
	for len(b.iov) > 0 {
		var n int
		var err error
		if len(b.iov) == 1 {
			n, err = unix.Write(int(fd), b.iov[0])
		} else {
			n, err = unix.Writev(int(fd), b.iov[:min(len(b.iov), maxVectors)])
		}
		switch {
		case err == nil:
			b.advance(n)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return !b.block
		default:
			b.broken = err
			return true
		}
	}
	return true
}

// advance drops the first n bytes of b.iov: they are sent.
func (b *outbox) advance(n int) {
	if n > 0 && b.block {
		b.pace.moved(n)
	}
	for len(b.iov) > 0 && n >= len(b.iov[0]) {
		n -= len(b.iov[0])
		b.iov = b.iov[1:]
	}
	if n > 0 {
		b.iov[0] = b.iov[0][n:]
	}
}

// unsent is the number of bytes in b.iov.
func (b *outbox) unsent() int {
	n := 0
	for _, p := range b.iov {
		n += len(p)
	}
	return n
}

// drain waits until all that was posted is sent or can't be sent.
func (b *outbox) drain() {
	b.mu.Lock()
	b.startLocked()
	for b.sending {
		b.changed.Wait()
	}
	b.mu.Unlock()
}

// fail ends sending: what waits is dropped. The connection must be closed, so that a
// sender that blocks ends. On return nobody sends and nothing is held.
func (b *outbox) fail(err error) {
	b.mu.Lock()
	if b.failed == nil {
		b.failed = err
	}
	b.dropLocked()
	b.changed.Broadcast()
	for b.sending {
		b.changed.Wait()
	}
	b.mu.Unlock()
}

// failure is why nothing can be sent any more, or nil.
func (b *outbox) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}
