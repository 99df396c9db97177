package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A server must stay small whatever is at its other end: connections, headers and the time
// that they may take are bounded, and bodies are not read.
const (
	maxConns      = 16 // of one server; further ones wait in the kernel's queue
	maxHeader     = 8 << 10
	headerTimeout = 5 * time.Second
	replyTimeout  = 30 * time.Second
	idleTimeout   = 60 * time.Second
	closeTimeout  = 2 * time.Second
)

// Server answers HTTP on one listener. Serve starts it.
type Server struct {
	http  *http.Server
	ended chan error // what serving ended with; holds one
}

// Serve answers requests on l with h, from a goroutine that Close ends.
func Serve(l net.Listener, h http.Handler) *Server {
	s := &Server{
		http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       headerTimeout,
			WriteTimeout:      replyTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeader,
			ErrorLog:          log.New(io.Discard, "", 0), // of clients that break off
		},
		ended: make(chan error, 1),
	}
	limited := &limitListener{Listener: l, free: make(chan struct{}, maxConns), closed: make(chan struct{})}
	go func() { s.ended <- s.http.Serve(limited) }() // ends with Close
	return s
}

// Close ends the server: its listener at once, a request that is being answered within
// seconds. It returns why serving had ended before, if it had.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if ended := <-s.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// limitListener accepts only while fewer than cap(free) connections are open.
type limitListener struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
}

func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitConn{Conn: c, free: l.free}, nil
}

// Close is called once, by http.Server.
func (l *limitListener) Close() error {
	close(l.closed)
	return l.Listener.Close()
}

// limitConn gives its place back when it is closed.
type limitConn struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

func (c *limitConn) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}

// Listen listens on a TCP address for Serve. A port alone, with or without a colon before it,
// is one of the loopback: these figures are not for everybody.
func Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil && !strings.Contains(address, ":") {
		host, port, err = "", address, nil
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("metrics address %q: want PORT, or ADDRESS:PORT like 0.0.0.0:9100", address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}
