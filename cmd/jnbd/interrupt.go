package main

import (
	"context"

	"jnbd/disk"
	"jnbd/journal"
)

// interruptible is the store's parts, whose writes fail once ctx is done: so a long
// Format ends at Ctrl-C, and create cleans up.
func interruptible(ctx context.Context, s *store) journal.Parts {
	p := s.parts()
	p.Backing = &interruptibleFile{s.backing, ctx}
	p.Journal = p.Backing
	if s.journal != nil {
		p.Journal = &interruptibleFile{s.journal, ctx}
	}
	return p
}

type interruptibleFile struct {
	*disk.File
	ctx context.Context
}

func (f *interruptibleFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *interruptibleFile) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.WriteVAt(bufs, off)
}

func (f *interruptibleFile) WriteDirectVAt(bufs [][]byte, off int64) (int64, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.WriteDirectVAt(bufs, off)
}
