// Package nbdtest serves exports to the tests of clients.
package nbdtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"jnbd/nbd"
)

// Server serves exports on a unix socket, which stays the same when it is ended and begun anew. It
// is for one goroutine, the test's.
type Server struct {
	t      testing.TB
	path   string
	server *nbd.Server // nil while it does not serve
	served chan error  // what Serve returned
}

// New returns a server that does not serve yet. The test's end stops it.
func New(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir's names can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, path: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		s.Stop()
		_ = os.RemoveAll(dir)
	})
	return s
}

// Path is that of the socket.
func (s *Server) Path() string { return s.path }

// Start begins to serve, and returns when clients can connect.
func (s *Server) Start(exports ...nbd.Export) {
	s.t.Helper()
	l, err := nbd.Listen("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = &nbd.Server{Exports: exports}
	s.served = make(chan error, 1)
	go func(server *nbd.Server, served chan error) { served <- server.Serve(l) }(s.server, s.served) // ends with Stop
}

// Add adds an export to those that are served.
func (s *Server) Add(export nbd.Export) {
	s.t.Helper()
	if err := s.server.AddExport(export); err != nil {
		s.t.Fatal(err)
	}
}

// Stop ends serving, as a server's death does; the second call does nothing.
func (s *Server) Stop() {
	s.t.Helper()
	if s.server == nil {
		return
	}
	_ = s.server.Close()
	if err := <-s.served; !errors.Is(err, nbd.ErrServerClosed) {
		s.t.Errorf("Serve returned %v", err)
	}
	s.server = nil
}
