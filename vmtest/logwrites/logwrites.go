// Package logwrites reads the log of a block device that notes every write and flush, in the
// format of Linux's dm-log-writes, which QEMU's driver blklogwrites writes too.
//
//	0            superblock, one sector
//	sector       entry header, one sector; behind it the entry's data, in whole sectors
//	…            the next entry
//
// The superblock, little endian:
//
//	 0  8  magic 0x6a736677736872
//	 8  8  version, 1
//	16  8  number of entries
//	24  4  bytes in a sector: 512 or 4096
//
// An entry's header, little endian:
//
//	 0  8  first sector on the device
//	 8  8  number of sectors
//	16  8  flags: 1 flush, 2 FUA, 4 discard, 8 mark, 16 metadata
//	24  8  bytes of a mark, which stand behind these fields
//
// A flush comes before the write in the same entry. A discard has no data, a flush alone has
// neither sectors nor data. QEMU has no marks, and writes out the zeros of a write of zeroes.
//
// The writer counts entries in the superblock now and then. One that was killed undercounts,
// so the reader goes on behind the last counted entry as long as what it finds makes sense.
// QEMU notes a write when it has completed. So a write that completes while a flush runs
// stands before the flush, and looks as if the flush had covered it.
package logwrites

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

const (
	magic   = 0x6a736677736872
	version = 1

	superBytes  = 28
	headerBytes = 32

	// MaxEntryBytes bounds the data of one entry, unless it is all zeros. Linux sends no
	// larger request.
	MaxEntryBytes = 64 << 20
	// MaxZeroBytes bounds an entry that writes zeros. QEMU makes none larger.
	MaxZeroBytes = 2 << 30
)

// The flags of an entry.
const (
	FlagFlush uint64 = 1 << iota
	FlagFUA
	FlagDiscard
	FlagMark
	FlagMetadata

	knownFlags = FlagFlush | FlagFUA | FlagDiscard | FlagMark | FlagMetadata
)

var (
	// ErrFormat: this is no such log, or one with damage.
	ErrFormat = errors.New("not a log of writes")
	// ErrVersion: it is one of another version.
	ErrVersion = errors.New("log of writes of another version")
)

// Entry is one operation of the device.
type Entry struct {
	Flags  uint64
	Off, N int64 // bytes on the device
	// Data is the text of a mark, or the N bytes of a write, nil when they are all zeros. It is
	// valid until the next call of Next.
	Data []byte
}

// Reader reads a log from its beginning.
type Reader struct {
	r       io.Reader
	sector  int64  // bytes
	counted uint64 // entries, by the superblock
	read    uint64 // entries
	at      int64  // where the next header begins
	header  []byte // one sector
	data    []byte
}

// NewReader reads the superblock.
func NewReader(r io.Reader) (*Reader, error) {
	super := make([]byte, superBytes)
	if _, err := io.ReadFull(r, super); err != nil {
		return nil, fmt.Errorf("superblock: %w: %w", ErrFormat, err)
	}
	if got := binary.LittleEndian.Uint64(super); got != magic {
		return nil, fmt.Errorf("superblock: %w: magic %#x, want %#x", ErrFormat, got, uint64(magic))
	}
	if got := binary.LittleEndian.Uint64(super[8:]); got != version {
		return nil, fmt.Errorf("superblock: %w: %d, want %d", ErrVersion, got, version)
	}
	sector := int64(binary.LittleEndian.Uint32(super[24:]))
	if sector != 512 && sector != 4096 {
		return nil, fmt.Errorf("superblock: %w: sectors of %d bytes, want 512 or 4096", ErrFormat, sector)
	}
	if _, err := io.CopyN(io.Discard, r, sector-superBytes); err != nil {
		return nil, fmt.Errorf("superblock: %w: %w", ErrFormat, err)
	}
	return &Reader{
		r: r, sector: sector, counted: binary.LittleEndian.Uint64(super[16:]),
		at: sector, header: make([]byte, sector),
	}, nil
}

// Next returns the next entry, or io.EOF at the end of the log. An entry that the superblock
// counts must be there whole; behind those, anything that is no whole entry ends the log.
func (r *Reader) Next() (Entry, error) {
	e, err := r.next()
	switch {
	case err == nil:
		r.read++
		return e, nil
	case r.read >= r.counted:
		return Entry{}, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return Entry{}, fmt.Errorf("entry %d of %d at %#x: %w: %w", r.read+1, r.counted, r.at, ErrFormat, err)
}

// next reads an entry, whatever the superblock says.
func (r *Reader) next() (Entry, error) {
	if _, err := io.ReadFull(r.r, r.header); err != nil {
		return Entry{}, err
	}
	first := binary.LittleEndian.Uint64(r.header)
	count := binary.LittleEndian.Uint64(r.header[8:])
	flags := binary.LittleEndian.Uint64(r.header[16:])
	mark := binary.LittleEndian.Uint64(r.header[24:])
	most, end := uint64(MaxZeroBytes/r.sector), uint64(math.MaxInt64/r.sector)
	switch {
	case flags&^knownFlags != 0:
		return Entry{}, fmt.Errorf("flags %#x, known are %#x", flags, knownFlags)
	case flags&^FlagMetadata == 0 && count == 0:
		return Entry{}, errors.New("a write of nothing")
	case flags&FlagMark != 0 && count != 0:
		return Entry{}, fmt.Errorf("a mark of %d sectors", count)
	case flags&FlagDiscard == 0 && count > most:
		return Entry{}, fmt.Errorf("%d sectors, at most %d are believed", count, most)
	case first > end || count > end-first:
		return Entry{}, fmt.Errorf("sectors [%d,+%d) end beyond any device", first, count)
	case flags&FlagMark == 0 && mark != 0:
		return Entry{}, fmt.Errorf("%d bytes of a mark in an entry that is none", mark)
	case mark > uint64(r.sector-headerBytes):
		return Entry{}, fmt.Errorf("a mark of %d bytes, at most %d fit", mark, r.sector-headerBytes)
	}
	e := Entry{Flags: flags, Off: int64(first) * r.sector, N: int64(count) * r.sector}
	if flags&FlagMark != 0 {
		e.Data = r.header[headerBytes : headerBytes+mark]
	}
	if flags&(FlagMark|FlagDiscard) == 0 {
		var err error
		if e.Data, err = r.readData(e.N); err != nil {
			return Entry{}, err
		}
		r.at += e.N
	}
	r.at += r.sector
	return e, nil
}

// readData reads the data of a write, n bytes; nil is all zeros. What is longer than
// MaxEntryBytes must be.
func (r *Reader) readData(n int64) ([]byte, error) {
	// Memory grows with what is there, not with what the header claims.
	const pieceBytes = 1 << 20
	data, zeros := r.data[:0], true
	for done := int64(0); done < n; {
		piece := int(min(pieceBytes, n-done))
		data = slices.Grow(data, piece)
		part := data[len(data) : len(data)+piece]
		if _, err := io.ReadFull(r.r, part); err != nil {
			return nil, err
		}
		zeros = zeros && bytes.Count(part, []byte{0}) == len(part)
		if n > MaxEntryBytes && !zeros {
			return nil, fmt.Errorf("%d bytes of data, at most %d are believed", n, MaxEntryBytes)
		}
		if n <= MaxEntryBytes {
			data = data[:len(data)+piece]
		}
		done += int64(piece)
	}
	r.data = data
	if zeros {
		return nil, nil
	}
	return data, nil
}
