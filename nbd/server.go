package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("nbd: server closed")

// Server serves exports on any number of listeners. Set the exported fields, then call
// Serve; they must not change afterwards.
type Server struct {
	// Exports are the disks to begin with. The first one is also the default export (the
	// empty name). AddExport and RemoveExport change them later.
	Exports []Export
	// TLS says which clients need TLS; TLSConfig then holds the certificates and says whether
	// clients must show one of theirs.
	TLS       TLSPolicy
	TLSConfig *tls.Config
	// MaxConns bounds the open connections. A further one takes the place of the one that has
	// been negotiating longest, if that had a second for it, else it is closed at once.
	// Default DefaultMaxConns.
	MaxConns int
	// HandshakeTimeout bounds a negotiation from accept to export. Default 10 s.
	HandshakeTimeout time.Duration
	// Workers bounds the requests of one export that wait for its medium at a time.
	// Default 64.
	Workers int
	// MaxBufferBytes bounds the payload and reply buffers of all connections together.
	// Who needs more waits, so it slows clients and never fails them. The least, and the
	// default, is 32 MiB plus the largest MaxBlock, rounded up to a power of two.
	MaxBufferBytes int64
	// Errno turns a Device's error into the client's. Default DefaultErrno.
	Errno func(error) Errno
	// SlowRequest is how long a request may take, from its last byte to its reply, before
	// OnEvent is told of it. Default 0: it is never.
	SlowRequest time.Duration
	// TraceEvery tells OnEvent of one request in so many, 1 for all. Default 0: of none.
	TraceEvery int
	// OnEvent is told what an operator may want to know. It is called from the
	// connections' goroutines, several at a time, and must not block. Default: nobody.
	OnEvent func(Event)

	start   sync.Once
	invalid error   // why the options can't be served; set by start
	largest int     // MaxBlock of those that start has found; set by start
	buffers buffers // set up by start
	ops     opCache
	share   share
	traced  atomic.Uint64 // requests that TraceEvery was asked about
	count   counters      // of the connections that ended without an export, and of accepting

	mu        sync.Mutex
	exports   []*export                 // never changed in place
	closing   bool                      // Shutdown or Close was called
	closed    chan struct{}             // closed when closing is set
	listeners map[net.Listener]struct{} // that Serve is accepting on
	conns     map[*conn]struct{}        // accepted and not ended
	lastConn  uint64                    // number of the last one
	evicted   int                       // of conns: closed for others, not ended
	empty     sync.Cond                 // conns is empty, or an export is held by nobody any more
	retired   bool                      // the workers have been told to end
}

// DefaultMaxConns is how many connections may be open when nothing else is said: enough for a
// hundred disks with ten each. Idle ones cost about 20 KiB each.
const DefaultMaxConns = 1024

const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultWorkers          = 64
	// slowAfter is how long a negotiation may take when others wait for its place.
	slowAfter = time.Second
)

// setUp checks the options and makes what all connections share, once.
func (s *Server) setUp() error {
	s.start.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = make(chan struct{})
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[*conn]struct{})
		s.empty.L = &s.mu
		s.invalid = s.setUpExports()
	})
	return s.invalid
}

// setUpExports makes s.exports and the buffers that they need.
func (s *Server) setUpExports() error {
	if len(s.Exports) == 0 {
		return errors.New("nbd: no export to serve")
	}
	if err := s.checkTLS(); err != nil {
		return err
	}
	for _, x := range s.Exports {
		if err := s.addExportLocked(x); err != nil {
			return err
		}
		s.largest = max(s.largest, int(s.exports[len(s.exports)-1].MaxBlock))
	}
	s.buffers.init(s.MaxBufferBytes, s.largest, s.closeStalled)
	return nil
}

// Serve accepts connections on l until Shutdown or Close, and then returns
// ErrServerClosed. It closes l before it returns. Any other error says that the options
// are wrong or that l failed.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if err := s.setUp(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()

	var pause acceptPause
	for {
		nc, err := l.Accept()
		if err == nil {
			pause.reset()
			s.accepted(nc)
			continue
		}
		select {
		case <-s.closed:
			return ErrServerClosed
		default:
		}
		if !temporary(err) {
			return fmt.Errorf("nbd: accept on %s: %w", l.Addr(), err)
		}
		s.event(Event{Kind: AcceptFailed, Err: err})
		if !pause.wait(s.closed) {
			return ErrServerClosed
		}
	}
}

// accepted gives nc a goroutine, or closes it when there are too many.
func (s *Server) accepted(nc net.Conn) {
	limit := s.maxConns()
	remote := nc.RemoteAddr().String()
	s.mu.Lock()
	s.lastConn++
	id, open, closing := s.lastConn, len(s.conns)-s.evicted, s.closing
	var c, slow *conn
	if open >= limit && !closing && s.evicted < limit {
		slow = s.slowNegotiatorLocked()
	}
	if (open < limit || slow != nil) && !closing {
		c = newConn(s, id, nc)
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if slow != nil {
		slow.close(reasonSlow, errSlow)
	}
	s.count.connsTotal.Add(1)
	if c == nil {
		_ = nc.Close()
		s.count.connsRefused.Add(1)
		err := fmt.Errorf("%d connections are open, the limit", open)
		if closing {
			err = ErrServerClosed
		}
		s.event(Event{Kind: ConnRefused, Conn: id, Remote: remote, Err: err})
		return
	}
	s.event(Event{Kind: ConnOpened, Conn: id, Remote: remote})
	go c.serve() // ends with the connection; Shutdown and Close wait for it
}

// maxConns is how many connections may be open.
func (s *Server) maxConns() int {
	if s.MaxConns <= 0 {
		return DefaultMaxConns
	}
	return s.MaxConns
}

// slowNegotiatorLocked chooses the connection that has been negotiating longest and no longer
// counts, or returns nil if none had its time yet. The caller closes it.
func (s *Server) slowNegotiatorLocked() *conn {
	var slow *conn
	for c := range s.conns {
		if c.attached.Load() == nil && !c.evicted && (slow == nil || c.id < slow.id) {
			slow = c
		}
	}
	if slow == nil || time.Since(slow.opened) < slowAfter {
		return nil
	}
	slow.evicted = true
	s.evicted++
	return slow
}

// forget removes a connection that has ended: nothing of it runs any more.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.evicted {
		s.evicted--
	}
	if c.export != nil {
		s.letGoLocked(c.export)
	}
	if x := c.attached.Load(); x != nil {
		s.share.leaveLocked()
		x.count.add(&c.count)
	} else {
		s.count.add(&c.count)
	}
	if len(s.conns) == 0 {
		s.buffers.shrink()
		s.empty.Broadcast()
	}
}

// Shutdown stops accepting, lets every connection finish what it has received, answers
// what comes later with ESHUTDOWN (not at all with simple replies, see refusalFor), and
// closes the connections. It waits until that is done
// or ctx ends; in the latter case it returns ctx's error, and Close should follow. No
// method of a Device is called after Shutdown has returned nil.
func (s *Server) Shutdown(ctx context.Context) error {
	_ = s.setUp() // a server that can't be set up has nothing to shut down
	for _, c := range s.stopAccepting() {
		c.stop()
	}
	stopWaiting := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.empty.Broadcast()
		s.mu.Unlock()
	})
	defer stopWaiting()
	return s.waitEmpty(ctx)
}

// Close closes listeners and connections at once. What has been received but not applied
// is dropped. It waits for calls into Devices that are under way; none follows.
func (s *Server) Close() error {
	_ = s.setUp() // a server that can't be set up has nothing to close
	for _, c := range s.stopAccepting() {
		c.close(reasonStopping, ErrServerClosed)
	}
	return s.waitEmpty(context.Background())
}

// stopAccepting closes the listeners and returns the connections that are open.
func (s *Server) stopAccepting() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.closing = true
		close(s.closed)
	}
	for l := range s.listeners {
		_ = l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// waitEmpty waits until the last connection has ended, and then for the workers.
func (s *Server) waitEmpty(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("nbd: shut down: %d connections have not finished: %w", len(s.conns), err)
		}
		s.empty.Wait()
	}
	if !s.retired {
		s.retired = true
		for _, x := range s.exports {
			x.workers.retire()
		}
	}
	return nil
}

// errno is the client's number for a device's error.
func (s *Server) errno(err error) Errno {
	number := DefaultErrno(err)
	if s.Errno != nil {
		number = s.Errno(err)
	}
	if number == 0 { // an error is never told as success
		return EIO
	}
	return number
}

// event tells OnEvent.
func (s *Server) event(e Event) {
	if s.OnEvent != nil {
		s.OnEvent(e)
	}
}

// isClosing reports whether Shutdown or Close was called.
func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
