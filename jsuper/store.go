package jsuper

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"jnbd/disk"
)

// Store writes the superblock of one journal. Its invariants:
//
//   - The slot that holds the newest durable generation is never given other content.
//   - At most one slot on the medium is not as a finished save left it.
//   - After the first failed write or flush nothing is written any more, but for ForgetBoot:
//     what the medium holds is unknown then, and asking again proves nothing (package disk).
//
// All methods may be called at the same time; saves take turns.
type Store struct {
	dev       disk.Device
	placement Placement

	mu     sync.Mutex
	loaded bool       // the fields below are known
	newest Superblock // of the newest generation on the device; zero if there is none
	next   int        // the slot the next save goes to
	unsure []byte     // content of the other slot, as read but perhaps not durable; nil: durable
	failed error      // the first failed save or wipe; sticky

	written atomic.Uint64 // bytes given to dev
}

// NewStore makes a store on dev, which with Internal is the whole backing. It does no I/O,
// and the store does not close dev.
func NewStore(dev disk.Device, placement Placement) *Store {
	return &Store{dev: dev, placement: placement}
}

// WrittenBytes is how much saves have written since NewStore. It waits for none.
func (s *Store) WrittenBytes() uint64 { return s.written.Load() }

// Load reads the superblock for use by a writer. Besides Probe's errors it returns
// ErrReadOnlyFormat where this version may read but must not write.
func (s *Store) Load() (*Superblock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loadLocked()
}

// loadLocked reads both slots and remembers which one is next. s.mu is held.
func (s *Store) loadLocked() (*Superblock, error) {
	slots, newest, err := readNewest(s.dev, s.placement)
	if err != nil {
		return nil, err
	}
	sb := slots[newest].Super
	if unknown := sb.ROCompat &^ knownROCompat; unknown != 0 {
		return nil, fmt.Errorf("open superblock slot %d at %d for writing: features %#x: %w",
			newest, slots[newest].Offset, unknown, ErrReadOnlyFormat)
	}
	s.loaded, s.newest, s.next, s.unsure = true, *sb, 1-newest, slots[newest].content
	return sb, nil
}

// Save writes sb with the next generation into the older slot, flushes, and sets
// sb.Generation. The first Save after a Load first writes and flushes what was loaded, in
// its place: it may have been read from the cache alone. On return sb is durable; whatever was written to dev before the call is
// durable no later than sb only if the caller flushed it first.
//
// A Save before any Load loads by itself. On a device without a journal it is the first
// save. A device that holds another disk's journal is refused; Create replaces it.
//
// An error means that either sb or the superblock before it will be found. The store has
// failed then, and every later Save returns this error.
func (s *Store) Save(sb *Superblock) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = s.saveLocked(s.dev, sb)
	}
	return s.failed
}

// SaveBoth saves sb twice, so that both slots say the same but for the generation. Who
// reuses log space on the strength of a new tail calls this: otherwise the older slot still
// tells of the old tail, and a newest slot that rots would send recovery into a part of the
// log that has been overwritten. A crash in the middle is as in Save.
func (s *Store) SaveBoth(sb *Superblock) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 2 {
		if s.failed == nil {
			s.failed = s.saveLocked(s.dev, sb)
		}
	}
	return s.failed
}

// Create is Save's beginning of a new journal: it wipes both slots, whatever they hold,
// and saves sb with generation 1. A crash in the middle leaves what was there before (or
// an older or damaged slot of it), or nothing, or sb.
func (s *Store) Create(sb *Superblock) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = s.wipeLocked()
	}
	if s.failed == nil {
		s.failed = s.saveLocked(s.dev, sb)
	}
	return s.failed
}

// Wipe zeroes both slots and flushes: there is no journal here any more. A new journal
// begins so, before its log is laid out, lest an old superblock be found with a new log.
func (s *Store) Wipe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = s.wipeLocked()
	}
	return s.failed
}

// ForgetBoot saves the newest superblock that was loaded or saved once more, with nothing
// changed but BootID, which becomes zero: the next open can't tell any more that the page cache
// still holds what was replied to. It is for a disk that may have lost some of that, so it
// works after a failed Save, too; the slot that this one left unfinished is the one it goes to.
// Every later Save fails, with cause if none has failed before.
//
// dev is the store's device, without a disk.FailStop that has failed: the flushes here are for
// what is written here. An error means that the superblock is found as it was before, or so.
func (s *Store) ForgetBoot(dev disk.Device, cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = cause
	}
	if s.newest.State != Dirty || s.newest.BootID == [16]byte{} {
		return nil // nothing is unflushed, or nobody takes it for there
	}
	sb := s.newest
	sb.BootID = [16]byte{}
	return s.saveLocked(dev, &sb)
}

// saveLocked is Save to dev without its memory of failure. s.mu is held.
func (s *Store) saveLocked(dev disk.Device, sb *Superblock) error {
	if !s.loaded {
		if _, err := s.loadLocked(); errors.Is(err, ErrNoJournal) {
			s.loaded = true
		} else if err != nil {
			return fmt.Errorf("save superblock: %w", err)
		}
	}
	if err := s.checkLocked(sb); err != nil {
		return fmt.Errorf("save superblock: %w", err)
	}
	offsets, err := SlotOffsets(s.placement, s.dev.Size())
	if err != nil {
		return fmt.Errorf("save superblock: %w", err)
	}
	if err := s.resealLocked(dev, offsets); err != nil {
		return err
	}
	sealed := *sb
	sealed.Generation = s.newest.Generation + 1
	slot := s.next
	if err := s.putLocked(dev, encode(&sealed), sealed.Generation, slot, offsets[slot]); err != nil {
		return err
	}
	sb.Generation = sealed.Generation
	s.newest, s.next = sealed, 1-slot
	return nil
}

// resealLocked makes durable what Load found, before the other slot is given up. A process
// that died between write and flush has left a slot that everyone can read and that is not
// on the medium; after a failed flush the kernel even takes it for clean. Only the same
// bytes written again, and flushed, make sure of it. A crash here harms nothing: where the
// slot is durable the same bytes go over it, and where it is not, the other slot is.
func (s *Store) resealLocked(dev disk.Device, offsets [2]int64) error {
	if s.unsure == nil {
		return nil
	}
	newest := 1 - s.next
	if err := s.putLocked(dev, s.unsure, s.newest.Generation, newest, offsets[newest]); err != nil {
		return err
	}
	s.unsure = nil
	return nil
}

// putLocked writes one slot and flushes.
func (s *Store) putLocked(dev disk.Device, content []byte, generation uint64, slot int, off int64) error {
	s.written.Add(uint64(len(content)))
	if _, err := dev.WriteAt(content, off); err != nil {
		return fmt.Errorf("save superblock generation %d: write slot %d at %d: %w", generation, slot, off, err)
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("save superblock generation %d: flush slot %d at %d: %w", generation, slot, off, err)
	}
	return nil
}

// checkLocked refuses what must not be written: a save that is wrong in itself, does not
// fit the device, belongs to another disk, or would drop features we do not know.
func (s *Store) checkLocked(sb *Superblock) error {
	if err := sb.Validate(); err != nil {
		return err
	}
	if err := sb.fits(s.placement, s.dev.Size()); err != nil {
		return err
	}
	switch {
	case sb.Incompat&^knownIncompat != 0 || sb.ROCompat&^knownROCompat != 0:
		return fmt.Errorf("features incompat %#x, ro-compat %#x: %w", sb.Incompat, sb.ROCompat, ErrReadOnlyFormat)
	case s.newest.Generation != 0 && s.newest.DiskUUID != sb.DiskUUID:
		return fmt.Errorf("disk uuid %s, but the device holds the journal of %s",
			FormatUUID(sb.DiskUUID), FormatUUID(s.newest.DiskUUID))
	case s.newest.Generation == math.MaxUint64:
		return fmt.Errorf("generation %d is the last one", s.newest.Generation)
	}
	return nil
}

// wipeLocked zeroes both slots. s.mu is held.
func (s *Store) wipeLocked() error {
	offsets, err := SlotOffsets(s.placement, s.dev.Size())
	if err != nil {
		return fmt.Errorf("wipe superblock: %w", err)
	}
	if _, err := s.dev.WriteAt(make([]byte, ReservedBytes), offsets[0]); err != nil {
		return fmt.Errorf("wipe superblock: write %d bytes at %d: %w", ReservedBytes, offsets[0], err)
	}
	if err := s.dev.Flush(); err != nil {
		return fmt.Errorf("wipe superblock: flush: %w", err)
	}
	s.loaded, s.newest, s.next, s.unsure = true, Superblock{}, 0, nil
	return nil
}
