package jsuper

import (
	"fmt"
	"hash/crc32"

	"jnbd/disk"
)

// FingerprintBlocks is how many blocks a fingerprint samples at most.
const FingerprintBlocks = 32

// fingerprintBlock is the length of a sample in bytes.
const fingerprintBlock = 4096

// headBlocks is how many samples stand side by side at the front, where partition tables
// and file-system superblocks are: what a foreign mount or mkfs touches first.
const headBlocks = 16

// Fingerprint recognises a backing by samples of its content. It finds a disk that was
// swapped, rolled back, mounted or formatted without the journal; it does not find every
// single changed byte, and it is no protection against someone who wants to fool it.
//
// The zero Fingerprint means "not taken"; nothing differs from it.
type Fingerprint struct {
	Size int64 // length of the backing in bytes
	// ModTimeNs is the backing's modification time, in ns since 1970, or 0 where it has
	// none. The caller sets it, after Update; it means something only in state Clean.
	ModTimeNs int64
	// Count of Blocks are in use, in ascending order; the others are zero.
	Count  int
	Blocks [FingerprintBlocks]BlockSum
}

// BlockSum is one sample: the CRC32C of the 4 KiB at Block*4096.
type BlockSum struct {
	Block uint64
	CRC   uint32
}

// TakeFingerprint samples dev: its first 16 blocks, 15 spread evenly behind them, and the
// last whole one; all of them if there are no more than 32. A rest shorter than a block
// is not sampled. dev must be the range of homes alone (with Internal a Region), because
// log and superblock change with every use.
func TakeFingerprint(dev disk.Device) (Fingerprint, error) {
	var f Fingerprint
	err := f.Update(dev)
	return f, err
}

// Update takes the fingerprint again, after homes were written. ModTimeNs becomes 0. After
// an error the fingerprint is as it was.
func (f *Fingerprint) Update(dev disk.Device) error {
	next := Fingerprint{Size: dev.Size()}
	var buf [fingerprintBlock]byte
	for _, block := range sampledBlocks(next.Size) {
		crc, err := sumBlock(dev, block, buf[:])
		if err != nil {
			return err
		}
		next.Blocks[next.Count] = BlockSum{Block: block, CRC: crc}
		next.Count++
	}
	*f = next
	return nil
}

// IsZero reports whether the fingerprint was never taken.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// Compare looks whether dev is the backing the fingerprint was taken of. It returns
// ErrShrunk or ErrChanged, wrapped with the sizes or with the offset of the first block
// that differs. Blocks for which skip reports true are not compared: the live log holds
// changes to them, so their homes may be in any state. A nil skip compares all.
func (f Fingerprint) Compare(dev disk.Device, skip func(off, n int64) bool) error {
	if f.IsZero() {
		return nil
	}
	switch size := dev.Size(); {
	case size < f.Size:
		return fmt.Errorf("compare backing: size %d, want %d: %w", size, f.Size, ErrShrunk)
	case size > f.Size:
		return fmt.Errorf("compare backing: it has grown: size %d, want %d: %w", size, f.Size, ErrChanged)
	}
	var buf [fingerprintBlock]byte
	for _, sample := range f.Blocks[:f.Count] {
		off := int64(sample.Block) * fingerprintBlock
		if skip != nil && skip(off, fingerprintBlock) {
			continue
		}
		crc, err := sumBlock(dev, sample.Block, buf[:])
		if err != nil {
			return err
		}
		if crc != sample.CRC {
			return fmt.Errorf("compare backing: block at offset %d: checksum %08x, want %08x: %w",
				off, crc, sample.CRC, ErrChanged)
		}
	}
	return nil
}

// sumBlock reads one block into buf and returns its CRC32C.
func sumBlock(dev disk.Device, block uint64, buf []byte) (uint32, error) {
	off := int64(block) * fingerprintBlock
	if _, err := dev.ReadAt(buf, off); err != nil {
		return 0, fmt.Errorf("fingerprint backing: read %d bytes at %d: %w", len(buf), off, err)
	}
	return crc32.Checksum(buf, castagnoli), nil
}

// sampledBlocks lists the block numbers to sample on size bytes, in ascending order.
func sampledBlocks(size int64) []uint64 {
	whole := uint64(size / fingerprintBlock)
	blocks := make([]uint64, 0, FingerprintBlocks)
	if whole <= FingerprintBlocks {
		for b := range whole {
			blocks = append(blocks, b)
		}
		return blocks
	}
	for b := range uint64(headBlocks) {
		blocks = append(blocks, b)
	}
	// The middles of equal parts of what lies between the head and the last block. The
	// parts are longer than one block, so no two middles fall together.
	const parts = FingerprintBlocks - headBlocks - 1
	between := whole - 1 - headBlocks
	for i := range uint64(parts) {
		blocks = append(blocks, headBlocks+(2*i+1)*between/(2*parts))
	}
	return append(blocks, whole-1)
}

// validate asserts the fingerprint's own invariants.
func (f *Fingerprint) validate() error {
	switch {
	case f.Size < 0 || f.Size > maxBytes:
		return fmt.Errorf("fingerprint size %d, want 0 to %d", f.Size, int64(maxBytes))
	case f.ModTimeNs < 0:
		return fmt.Errorf("fingerprint modification time %d ns, want 0 or more", f.ModTimeNs)
	case f.Count < 0 || f.Count > FingerprintBlocks:
		return fmt.Errorf("fingerprint has %d blocks, want 0 to %d", f.Count, FingerprintBlocks)
	}
	whole := uint64(f.Size / fingerprintBlock)
	for i, sample := range f.Blocks {
		switch {
		case i >= f.Count && sample != BlockSum{}:
			return fmt.Errorf("fingerprint block %d is beyond the count %d and not zero", i, f.Count)
		case i < f.Count && sample.Block >= whole:
			return fmt.Errorf("fingerprint block %d is number %d, the backing has %d", i, sample.Block, whole)
		case i > 0 && i < f.Count && sample.Block <= f.Blocks[i-1].Block:
			return fmt.Errorf("fingerprint block %d is number %d, not above %d before it",
				i, sample.Block, f.Blocks[i-1].Block)
		}
	}
	return nil
}
