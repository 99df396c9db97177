package jsuper

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"jnbd/disk"
)

// ReservedBytes is what the two slots take of the journal device: its first bytes with
// Beside, its last with Internal.
const ReservedBytes = 2 * slotBytes

// SlotOffsets says where the slots are on a device of deviceBytes.
func SlotOffsets(placement Placement, deviceBytes int64) ([2]int64, error) {
	switch placement {
	case Beside:
		return [2]int64{0, slotBytes}, nil
	case Internal:
		if deviceBytes < ReservedBytes {
			return [2]int64{}, fmt.Errorf("superblock slots: device of %d bytes, want at least %d: %w",
				deviceBytes, ReservedBytes, ErrNoJournal)
		}
		return [2]int64{deviceBytes - ReservedBytes, deviceBytes - slotBytes}, nil
	}
	return [2]int64{}, fmt.Errorf("superblock slots: placement %d, want 1 (beside) or 2 (internal)", uint8(placement))
}

// Slot is one slot as found on a device.
type Slot struct {
	Offset int64
	// Sealed means that the checksum is right: a writer finished this slot. Only then does
	// Generation mean anything.
	Sealed     bool
	Generation uint64
	// Super is the slot's content, nil unless it can be believed.
	Super *Superblock
	// Err says why Super is nil: it wraps ErrNoJournal (nothing of ours), ErrCorrupt (torn
	// or damaged), ErrTooNew, or ErrChanged and ErrShrunk (with Internal: the device has been
	// resized). One torn slot is normal after a crash.
	Err error

	content []byte
}

// ReadSlots reads both slots and judges each by itself. The error is that of the device, or
// of the placement; what is wrong with a slot stands in the slot.
func ReadSlots(dev disk.Device, placement Placement) ([2]Slot, error) {
	return readSlots(dev, placement, dev.ReadAt)
}

// ReadSlotsDirect is ReadSlots of what the medium holds, past the page cache, for
// `jnbd check`.
func ReadSlotsDirect(dev disk.Device, placement Placement) ([2]Slot, error) {
	return readSlots(dev, placement, func(p []byte, off int64) (int, error) { return disk.ReadDirect(dev, p, off) })
}

// readFunc is the shape of ReadAt.
type readFunc func(p []byte, off int64) (int, error)

func readSlots(dev disk.Device, placement Placement, read readFunc) ([2]Slot, error) {
	var slots [2]Slot
	offsets, err := SlotOffsets(placement, dev.Size())
	if err != nil {
		return slots, err
	}
	for i, off := range offsets {
		content, err := readSlot(dev.Size(), off, read)
		if err != nil {
			return slots, fmt.Errorf("read superblock slot %d at %d: %w", i, off, err)
		}
		slots[i] = judge(content, placement, dev.Size())
		slots[i].Offset = off
		if end := dev.Size(); off < end && end < off+slotBytes && errors.Is(slots[i].Err, ErrCorrupt) {
			slots[i].Err = fmt.Errorf("%w; the device ends inside this slot, at %d: it was truncated", slots[i].Err, end)
		}
	}
	return slots, nil
}

// readSlot reads a slot. What lies beyond the end of the device comes as zeros: a
// truncated slot fails its checksum, an absent one is empty.
func readSlot(deviceBytes, off int64, read readFunc) ([]byte, error) {
	b := make([]byte, slotBytes)
	there := min(max(deviceBytes-off, 0), slotBytes)
	if there == 0 {
		return b, nil
	}
	if n, err := read(b[:there], off); err != nil && (int64(n) < there || !errors.Is(err, io.EOF)) {
		return nil, err
	}
	return b, nil
}

// judge classifies a slot's content without a look at the other slot.
func judge(content []byte, placement Placement, deviceBytes int64) Slot {
	s := Slot{content: content}
	if !bytes.Equal(content[offMagic:offMagic+len(magic)], magic[:]) {
		s.Err = judgeForeign(content)
		return s
	}
	h, err := decodeHeader(content)
	if err != nil {
		s.Err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		return s
	}
	s.Sealed, s.Generation = true, h.generation
	if why := h.tooNew(); why != "" {
		s.Err = fmt.Errorf("%w: %s", ErrTooNew, why)
		return s
	}
	sb, err := decode(content, h)
	if err == nil {
		err = sb.fits(placement, deviceBytes)
	}
	if errors.Is(err, ErrChanged) || errors.Is(err, ErrShrunk) {
		s.Err = err // the slot is as it was written; the device is not
		return s
	}
	if err != nil {
		s.Err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		return s
	}
	s.Super = sb
	return s
}

// judgeForeign tells a slot that never was ours from one whose magic alone is damaged:
// "no journal" invites the operator to make one, over what may be a live journal.
func judgeForeign(content []byte) error {
	if firstNonZero(content) < 0 {
		return fmt.Errorf("%w: all zero", ErrNoJournal)
	}
	repaired := bytes.Clone(content)
	copy(repaired[offMagic:], magic[:])
	if _, err := decodeHeader(repaired); err == nil {
		return fmt.Errorf("%w: magic %x, want %x", ErrCorrupt, content[:len(magic)], magic)
	}
	return fmt.Errorf("%w: foreign content, begins %x", ErrNoJournal, content[:len(magic)])
}

// choose decides which slot speaks for the journal: the sealed one of the newest
// generation, if it can be believed. It never falls back from a slot that a writer
// finished: an older slot then describes a state that is gone. Only a slot that is not
// sealed, torn by a crash in a save, is passed over.
func choose(slots *[2]Slot) (int, error) {
	a, b := &slots[0], &slots[1]
	switch {
	case a.Sealed && b.Sealed && a.Generation == b.Generation && !bytes.Equal(a.content, b.content):
		return 0, fmt.Errorf("%w: both slots have generation %d and differ", ErrCorrupt, a.Generation)
	case a.Super != nil && b.Super != nil && a.Super.DiskUUID != b.Super.DiskUUID:
		return 0, fmt.Errorf("%w: slots are of two disks, %s and %s", ErrCorrupt,
			FormatUUID(a.Super.DiskUUID), FormatUUID(b.Super.DiskUUID))
	}
	newest := 0
	if b.Sealed && (!a.Sealed || b.Generation > a.Generation) {
		newest = 1
	}
	if !slots[newest].Sealed {
		return 0, describeBoth(slots)
	}
	if err := slots[newest].Err; err != nil {
		return 0, fmt.Errorf("slot %d at %d: %w", newest, slots[newest].Offset, err)
	}
	return newest, nil
}

// describeBoth is the refusal when no slot is sealed: corrupt if either was ours once.
func describeBoth(slots *[2]Slot) error {
	sentinel := ErrNoJournal
	for i := range slots {
		if errors.Is(slots[i].Err, ErrCorrupt) {
			sentinel = ErrCorrupt
		}
	}
	return fmt.Errorf("%w (slot 0 at %d: %v; slot 1 at %d: %v)", sentinel,
		slots[0].Offset, slots[0].Err, slots[1].Offset, slots[1].Err)
}

// Probe reads the superblock of the journal on dev and never writes. With Internal, dev is
// the whole backing. The errors are ErrNoJournal, ErrCorrupt, ErrTooNew, ErrChanged and
// ErrShrunk, wrapped with what was found where, or the device's own.
func Probe(dev disk.Device, placement Placement) (*Superblock, error) {
	slots, newest, err := readNewest(dev, placement)
	if err != nil {
		return nil, err
	}
	return slots[newest].Super, nil
}

// readNewest is ReadSlots and choose, with the place added to the error.
func readNewest(dev disk.Device, placement Placement) (slots [2]Slot, newest int, err error) {
	slots, err = ReadSlots(dev, placement)
	if err == nil {
		newest, err = choose(&slots)
	}
	if err != nil {
		return slots, 0, fmt.Errorf("read superblock: %w", err)
	}
	return slots, newest, nil
}
