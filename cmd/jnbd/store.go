package main

import (
	"errors"
	"fmt"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
)

// store is the open files of one disk, and the engine's view of them.
type store struct {
	place
	backing *disk.File
	journal *disk.File // nil when the journal is internal
}

// access says how a store is opened.
type access struct {
	readOnly bool // not one write; a shared lock
	noLock   bool // no lock at all: to look at a disk that another process serves
}

// openStore opens the files of a disk, and locks them unless told not to.
func openStore(at place, how access) (*store, error) {
	options := disk.FileOptions{ReadOnly: how.readOnly, NoLock: how.noLock}
	backing, err := disk.OpenFile(at.disk, options)
	if err != nil {
		return nil, err
	}
	s := &store{place: at, backing: backing}
	if at.placement == jsuper.Internal {
		return s, nil
	}
	s.journal, err = disk.OpenFile(at.journal, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open journal of %s: %w", at.disk, err), backing.Close())
	}
	return s, nil
}

// parts is the store as the engine wants it.
func (s *store) parts() journal.Parts {
	p := journal.Parts{Backing: s.backing, Journal: s.backing, Placement: s.placement}
	if s.journal != nil {
		p.Journal = s.journal
	}
	return p
}

// probe reads the superblock. Without one the error tells how to make one.
func (s *store) probe() (*jsuper.Superblock, error) {
	super, err := jsuper.Probe(s.parts().Journal, s.placement)
	return super, s.explain(err)
}

// explain adds to the engine's error which disk it is about, and the way out where there
// is one. It keeps the cause, and nil.
func (s *store) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, journal.ErrBackingChanged), errors.Is(err, journal.ErrForeign):
		return fmt.Errorf("disk %s: %w; if this was intended, run serve or close with --accept-backing; otherwise restore the image", s.disk, err)
	case errors.Is(err, jsuper.ErrNoJournal) && s.placement == jsuper.Internal:
		if resized := refuseResized(s.backing, s.disk); resized != nil {
			return resized
		}
		return fmt.Errorf("disk %s has no journal, neither %s nor in its tail; 'jnbd create %s' adds one and keeps the data: %w",
			s.disk, beside(s.disk), s.disk, err)
	case errors.Is(err, jsuper.ErrNoJournal):
		return fmt.Errorf("disk %s: %s is no journal: %w", s.disk, s.place.journal, err)
	}
	return fmt.Errorf("disk %s: %w", s.disk, err)
}

// journalName is where the journal is, for people.
func (p place) journalName() string {
	if p.placement == jsuper.Internal {
		return internalJournal
	}
	return p.journal
}

// Close gives files and locks back. It writes nothing.
func (s *store) Close() error {
	err := s.backing.Close()
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	if err != nil {
		return fmt.Errorf("close disk %s: %w", s.disk, err)
	}
	return nil
}
