package jsuper

import (
	"bytes"
	"fmt"

	"jnbd/disk"
)

const (
	// movedWindow is how far from the end slots are looked for, in bytes.
	movedWindow = 64 << 20
	// movedLine is what they begin on: a block device may be any number of sectors long.
	movedLine = 512
	// movedPiece is how much is read at once.
	movedPiece = 1 << 20
)

// FindMoved looks for the superblock of an internal journal that is not at the end of dev,
// because dev was resized since. It returns the newest one and the offset of its slot, or nil
// if there is none. It reads the last 64 MiB, and the 64 MiB before a hole at the end: what
// a growing image file gets. Content that merely holds another disk's image does not count,
// as long as that superblock names the size of its device.
func FindMoved(dev disk.Device) (*Superblock, int64, error) {
	end := dev.Size()
	newest, at, err := findMovedBefore(dev, end, nil, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("look for a superblock before %d: %w", end, err)
	}
	dataEnd, err := endOfData(dev)
	if err == nil && dataEnd < end {
		newest, at, err = findMovedBefore(dev, dataEnd, newest, at)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("look for a superblock before %d: %w", dataEnd, err)
	}
	return newest, at, nil
}

// endOfData is where the last piece of dev that is no hole ends.
func endOfData(dev disk.Device) (end int64, err error) {
	err = disk.Extents(dev, 0, dev.Size(), func(off, n int64, hole bool) bool {
		if !hole {
			end = off + n
		}
		return true
	})
	return end, err
}

// findMovedBefore searches the window that ends at end, for what is newer than newest.
func findMovedBefore(dev disk.Device, end int64, newest *Superblock, at int64) (*Superblock, int64, error) {
	buf := make([]byte, movedPiece+slotBytes)
	from := max(0, end-movedWindow) / movedLine * movedLine
	for ; from < end; from += movedPiece {
		// A slot may begin in this piece and end in the next one.
		p := buf[:min(int64(len(buf)), dev.Size()-from)]
		if _, err := dev.ReadAt(p, from); err != nil {
			return nil, 0, err
		}
		for i := 0; i < movedPiece && i+slotBytes <= len(p); i += movedLine {
			off := from + int64(i)
			if sb := movedSlot(p[i:i+slotBytes], off, dev.Size()); sb != nil && (newest == nil || sb.Generation > newest.Generation) {
				newest, at = sb, off
			}
		}
	}
	return newest, at, nil
}

// movedSlot is the superblock in slot, if it is one of an internal journal that was at off
// when its device ended elsewhere than at deviceBytes.
func movedSlot(slot []byte, off, deviceBytes int64) *Superblock {
	if !bytes.Equal(slot[offMagic:offMagic+len(magic)], magic[:]) {
		return nil
	}
	h, err := decodeHeader(slot)
	if err != nil || h.tooNew() != "" {
		return nil
	}
	sb, err := decode(slot, h)
	if err != nil || sb.Placement != Internal || sb.DeviceBytes == deviceBytes {
		return nil
	}
	if sb.DeviceBytes != 0 && off != sb.DeviceBytes-ReservedBytes && off != sb.DeviceBytes-slotBytes {
		return nil
	}
	return sb
}
