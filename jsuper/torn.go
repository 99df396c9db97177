package jsuper

import (
	"encoding/binary"
	"errors"
)

// MayBeTorn reports whether lost, a slot that can't be read, may be what a crash left of the
// save after survivor, which the other slot holds. That is normal: nothing is lost. What a
// crash can't do is damage. A torn save mixes whole sectors of the slot before survivor and
// of the one after, so
//
//   - magic and generation are those of one of the two,
//   - what is zero in both is zero,
//   - and it is not a single byte of the first sector that is wrong: there two superblocks
//     differ by more.
//
// Nothing can be said of a slot that was never written before survivor's first save.
func MayBeTorn(lost, survivor Slot) bool {
	if survivor.Super == nil || lost.Super != nil || (!errors.Is(lost.Err, ErrCorrupt) && !errors.Is(lost.Err, ErrNoJournal)) {
		return false
	}
	if survivor.Generation == 1 {
		return true
	}
	if [8]byte(lost.content[offMagic:]) != magic {
		return false
	}
	generation := binary.LittleEndian.Uint64(lost.content[offGeneration:])
	if generation != survivor.Generation-1 && generation != survivor.Generation+1 {
		return false
	}
	return firstNonZero(lost.content[offReserved3:]) < 0 && !oneByteWrong(lost.content, tornBytes)
}

// tornBytes are what a medium writes whole, at least (package disk).
const tornBytes = 512

// oneByteWrong reports whether a slot has its checksum once a single one of its first n bytes is
// another.
func oneByteWrong(content []byte, n int) bool {
	// A checksum is linear: the difference that a byte makes depends on its place and its
	// change alone, and one place further from the end is one more zero byte fed into it.
	wrong := checksum(content) ^ binary.LittleEndian.Uint32(content[offCRC:])
	for shift := 0; shift < 32; shift += 8 {
		if wrong&^(0xff<<shift) == 0 {
			return true // of the checksum itself
		}
	}
	difference := *castagnoli
	for at := len(content) - 1; at >= 0; at-- {
		counts := at < n && (at < offCRC || at >= offCRC+4)
		for i, d := range difference {
			if i > 0 && d == wrong && counts {
				return true
			}
			difference[i] = castagnoli[byte(d)] ^ d>>8
		}
	}
	return false
}
