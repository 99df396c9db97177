package journal

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/ordered"
)

// How the bytes of spare slots reach the host:
//
//   - A long run goes past the page cache. An overwritten block leaves a home in the cache that
//     nobody reads again; a cached slot beside it would hold the disk in memory twice, and to
//     get that memory costs more than the write (decision 16).
//     Such writes go in groups (gather.go).
//   - A short run goes through the page cache: a wait for the medium each would cost more.
//   - The host gets asked for space before it is written to, a step ahead, so that a host that
//     is full sends the write to the log instead of failing it (DESIGN.md, trap 10), and the
//     file system has long runs to give.
//
// The two kinds of write keep off each other's 2 MiB (disk.DirectWriter): each has its part of
// the area, by ordered.State.KeepApart, and the place alone decides how a run is written. Reads
// go through the page cache everywhere.

const (
	// cacheUnit is the largest piece that a page cache keeps together.
	cacheUnit = 2 << 20
	// spareStep is the most space that the host is asked for at once. The kernel takes it while no direct write
	// of the file is under way, so it stops what is written.
	spareStep = 256 << 20
	// shortShare: one part in so many of the spare area is for short runs, where there are any.
	shortShare = 9
	// shortRun is the longest run that goes through the page cache.
	shortRun = bulkBytes / blockBytes
)

// slots is the spare area as it is written.
type slots struct {
	dev              disk.Device
	directFrom, upTo int64 // bytes of the area that are written past the page cache
	step             int64
	keep             bool     // the host gets no space back
	gathering        gatherer // of writes past the page cache

	mu    sync.Mutex
	taken map[int64]bool // guarded by mu; steps that have space of the host; true: all of theirs
}

// newSlots is the spare area of a disk. Short runs occur in mode ordered only, where every
// write of whole blocks goes out once.
func newSlots(dev disk.Device, sb *jsuper.Superblock, mode jsuper.Mode) *slots {
	s := &slots{dev: dev, taken: map[int64]bool{}, keep: sb.Compat&jsuper.FeatureKeepSpare != 0}
	s.step = min(spareStep, max(1<<20, int64(1)<<bits.Len64(uint64(sb.SpareBytes/8))))
	s.directFrom = alignUp(sb.SpareOffset, cacheUnit) - sb.SpareOffset
	s.upTo = sb.SpareBytes
	if mode == jsuper.Ordered {
		s.upTo -= sb.SpareBytes / shortShare
	}
	s.upTo = (sb.SpareOffset+s.upTo)/cacheUnit*cacheUnit - sb.SpareOffset
	s.upTo = max(s.upTo, 0)
	s.directFrom = min(s.directFrom, s.upTo)
	return s
}

// writeSpare writes zeros over a new spare area, so that nothing in it is a place that the medium never
// held. It goes past the page cache: nobody reads this. The flush of the stored state, on the same device,
// covers it.
func writeSpare(dev disk.Device, progress func(done, total int64)) error {
	size := dev.Size()
	if err := ignoreUnsupported(disk.Allocate(dev, 0, size)); err != nil { // fails before anything is written
		return fmt.Errorf("write the spare area: %w", err)
	}
	write := func(p []byte, off int64) (int, error) { return len(p), disk.WriteDirect(dev, [][]byte{p}, off) }
	if err := disk.FillZeros(size, 1<<20, write, progress); err != nil {
		return fmt.Errorf("write the spare area: %w", err)
	}
	return nil
}

// keepApart tells the state which slots are for which runs.
func (s *slots) keepApart(state *ordered.State) {
	state.KeepApart(s.upTo/blockBytes, shortRun)
}

// pastCache reports whether targets are slots only, some of them written past the page cache. Then none is
// a home that the checkpointer may wait for.
func (s *slots) pastCache(targets []ordered.Target) bool {
	past := false
	for _, t := range targets {
		if t.Home {
			return false
		}
		off := t.Slot * blockBytes
		past = past || off < s.upTo && off+t.N*blockBytes > s.directFrom
	}
	return past
}

// write writes bufs, n bytes together, one after the other from off on. After an error any of it may have
// been written.
func (s *slots) write(bufs [][]byte, off, n int64) error {
	if err := s.takeSpace(off, n); err != nil {
		return err
	}
	if off >= s.directFrom && off+n <= s.upTo {
		return disk.WriteDirect(s.dev, bufs, off)
	}
	for _, p := range bufs {
		if err := s.writeByPlace(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// writeByPlace writes p where some of the area goes through the page cache.
func (s *slots) writeByPlace(p []byte, off int64) error {
	for n := int64(len(p)); n > 0; n = int64(len(p)) {
		k, direct := n, false
		switch {
		case off < s.directFrom:
			k = min(n, s.directFrom-off)
		case off < s.upTo:
			k, direct = min(n, s.upTo-off), true
		}
		var err error
		if direct {
			err = disk.WriteDirect(s.dev, [][]byte{p[:k]}, off)
		} else {
			_, err = s.dev.WriteAt(p[:k], off)
		}
		if err != nil {
			return err
		}
		p, off = p[k:], off+k
	}
	return nil
}

// takeSpace asks the host for the space of [off, off+n), in whole steps.
func (s *slots) takeSpace(off, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := off / s.step; at*s.step < off+n; at++ {
		if s.taken[at] {
			continue
		}
		s.taken[at] = false
		from := at * s.step
		err := disk.Allocate(s.dev, from, min(s.step, s.dev.Size()-from))
		if refusedSpace(err) { // a whole step is more than is needed
			return ignoreUnsupported(disk.Allocate(s.dev, off, n))
		}
		if err := ignoreUnsupported(err); err != nil {
			return err
		}
		s.taken[at] = true
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // then only writing takes space
	}
	return err
}

// giveBack gives the host the space of slots that nobody uses, unless it is to be kept. What a step has
// beyond them stays until giveBackStep.
func (s *slots) giveBack(r ordered.Run) error {
	if s.keep {
		return nil
	}
	off, n := r.Start*blockBytes, r.N*blockBytes
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := off / s.step; at*s.step < off+n; at++ {
		if s.taken[at] {
			s.taken[at] = false
		}
	}
	if err := disk.Discard(s.dev, off, n); err != nil {
		return fmt.Errorf("give back %d spare slots at %d: %w", r.N, r.Start, err)
	}
	return nil
}

// giveBackStep gives the host the space of one step of which no slot is in use, unless it is to be kept. It
// reports whether there was one. What was taken before the disk was opened stays until it is closed.
func (s *slots) giveBackStep(state *ordered.State) (given bool, err error) {
	if s.keep {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := range s.taken {
		off := at * s.step
		n := min(s.step, s.dev.Size()-off)
		if !state.TakeSlots(off/blockBytes, n/blockBytes) {
			continue
		}
		defer state.ReturnSlots(off/blockBytes, n/blockBytes)
		delete(s.taken, at)
		if err := disk.Discard(s.dev, off, n); err != nil {
			return false, fmt.Errorf("give back %d bytes of free spare slots at %d: %w", n, off, err)
		}
		return true, nil
	}
	return false, nil
}
