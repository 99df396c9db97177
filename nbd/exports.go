package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Exports come and go while the server runs:
//
//  1. A connection holds its export, from the option that names it until it is forgotten. An
//     option that only asks holds it for as long as it takes to answer.
//  2. RemoveExport takes the export out of the list, so that nobody finds it any more, and
//     stops its connections as Shutdown does: what they have received is finished.
//  3. When nobody holds the export, its workers end. Its Device is not called any more.
//
// The other exports and their connections notice nothing.

// ErrNoExport is RemoveExport's answer for a name that no export has.
var ErrNoExport = errors.New("there is no export of this name")

// errRemoved ends the connections of a removed export that did not end in time.
var errRemoved = errors.New(reasonRemoved)

// AddExport adds an export to a server, also while it serves. MaxBlock may not exceed the
// largest of those that the server began with.
func (s *Server) AddExport(x Export) error {
	if err := s.setUp(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrServerClosed
	}
	if err := s.addExportLocked(x); err != nil {
		return err
	}
	if e := s.exports[len(s.exports)-1]; int(e.MaxBlock) > s.largest {
		s.exports = s.exports[:len(s.exports)-1]
		return fmt.Errorf("nbd: export %q: maximum block is %d, at most %d are possible while the server runs", x.Name, e.MaxBlock, s.largest)
	}
	return nil
}

// addExportLocked checks x and appends it to the list.
func (s *Server) addExportLocked(x Export) error {
	if s.exportLocked(x.Name) != nil {
		return fmt.Errorf("nbd: two exports are called %q; give one another name", x.Name)
	}
	workers := s.Workers
	if workers <= 0 {
		workers = defaultWorkers
	}
	e, err := newExport(x, workers)
	if err == nil && len(x.AllowedNames) > 0 && s.TLS == TLSOff {
		err = errors.New("names of certificates are required to use it, which needs TLS")
	}
	if err != nil {
		return fmt.Errorf("nbd: export %q: %w", x.Name, err)
	}
	s.exports = append(slices.Clip(s.exports), e) // who walks the old list is not disturbed
	return nil
}

// SetDefault makes the export of a name the default one.
func (s *Server) SetDefault(name string) error {
	if err := s.setUp(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.exportLocked(name)
	if x == nil {
		return fmt.Errorf("nbd: make %q the default export: %w", name, ErrNoExport)
	}
	others := slices.DeleteFunc(slices.Clone(s.exports), func(other *export) bool { return other == x })
	s.exports = append([]*export{x}, others...)
	return nil
}

// RemoveExport removes an export. Its clients' outstanding requests are finished and what
// they send later is answered with ESHUTDOWN; then they are closed, at the latest when ctx
// ends, which drops what was not applied by then. On return, but for ErrNoExport and
// ErrServerClosed, no method of the export's Device is called any more.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	if err := s.setUp(); err != nil {
		return err
	}
	x, conns, err := s.unlist(name)
	if err != nil {
		return err
	}
	for _, c := range conns {
		c.stop()
	}
	hurry := context.AfterFunc(ctx, func() {
		for _, c := range s.attachedTo(x) {
			c.close(reasonRemoved, errRemoved)
		}
	})
	defer hurry()
	s.mu.Lock()
	defer s.mu.Unlock()
	for x.holders > 0 {
		s.empty.Wait()
	}
	x.workers.retire()
	s.count.add(&x.count)
	return nil
}

// unlist takes an export out of the list, and returns its connections.
func (s *Server) unlist(name string) (*export, []*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, nil, ErrServerClosed // and the workers end with the server
	}
	x := s.exportLocked(name)
	if x == nil {
		return nil, nil, fmt.Errorf("nbd: remove export %q: %w", name, ErrNoExport)
	}
	s.exports = slices.DeleteFunc(slices.Clone(s.exports), func(other *export) bool { return other == x })
	x.removed.Store(true)
	return x, s.attachedToLocked(x), nil
}

// attachedTo are the connections in the transmission with x.
func (s *Server) attachedTo(x *export) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attachedToLocked(x)
}

func (s *Server) attachedToLocked(x *export) []*conn {
	var conns []*conn
	for c := range s.conns {
		if c.attached.Load() == x {
			conns = append(conns, c)
		}
	}
	return conns
}

// attach tells the server that c's negotiation has chosen an export, which c holds.
func (s *Server) attach(c *conn) {
	s.mu.Lock()
	c.attached.Store(c.export)
	s.share.joinLocked()
	removed := c.export.removed.Load()
	s.mu.Unlock()
	if removed { // RemoveExport has not seen c
		c.stop()
	}
}

// hold returns the export that a client calls name, or nil. letGo must follow.
func (s *Server) hold(name string) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.exportLocked(name)
	if name == "" && len(s.exports) > 0 {
		x = s.exports[0]
	}
	if x != nil {
		x.holders++
	}
	return x
}

// letGo undoes hold.
func (s *Server) letGo(x *export) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letGoLocked(x)
}

func (s *Server) letGoLocked(x *export) {
	if x.holders--; x.holders == 0 {
		s.empty.Broadcast()
	}
}

// exportLocked is the export of a name, or nil.
func (s *Server) exportLocked(name string) *export {
	for _, x := range s.exports {
		if x.Name == name {
			return x
		}
	}
	return nil
}

// list are the exports of now.
func (s *Server) list() []*export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports
}
