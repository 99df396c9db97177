package jsuper

import (
	"fmt"
	"testing"
	"time"

	"jnbd/disk"
)

// sample is a superblock with something in every field, on a Beside journal of
// sampleDevice bytes.
func sample() *Superblock {
	sb := &Superblock{
		Compat:       0x0000_0000_0000_0005,
		DiskUUID:     [16]byte{0xd1, 0x5c, 2, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 15},
		Node:         7,
		Mode:         Data,
		State:        Dirty,
		Placement:    Beside,
		CreatedAt:    time.Date(2025, 3, 1, 12, 0, 0, 1, time.UTC),
		UpdatedAt:    time.Date(2025, 3, 2, 13, 30, 0, 999_999_999, time.UTC),
		DiskBytes:    1 << 30,
		LogOffset:    64 << 10,
		LogBytes:     1 << 20,
		SegmentBytes: 64 << 10,
		SpareOffset:  3 << 20,
		SpareBytes:   1 << 20,
		SpareCap:     2 << 20,
		StateOffset:  5 << 20, StateGeneration: 77,
		DeviceBytes: sampleDevice,
		BackingID:   [16]byte{0x1d, 3, 3, 3, 0, 0, 0, 0, 0xb7},

		Tail:        5 << 20,
		TailSeq:     4182,
		TailEpoch:   [16]byte{0x7e, 1, 1, 1},
		DurableUpTo: 5<<20 + 512,
		Epoch:       [16]byte{0xe0, 2, 2, 2},
		BarrierSeq:  4190,
		BarrierTime: time.Date(2025, 3, 2, 13, 29, 59, 0, time.UTC),
		Fingerprint: Fingerprint{Size: 1 << 30, ModTimeNs: 1_740_922_199_000_000_000, Count: FingerprintBlocks},
	}
	for i, block := range sampledBlocks(1 << 30) {
		sb.Fingerprint.Blocks[i] = BlockSum{Block: block, CRC: 0xc0de_0000 + uint32(i)}
	}
	return sb
}

// sampleDevice is the length of a device on which sample fits exactly.
const sampleDevice = 64<<10 + 1<<20

// internalSample is a small superblock at the end of a backing of sampleDevice bytes.
func internalSample() *Superblock {
	sb := sample()
	sb.Placement = Internal
	sb.DiskBytes = 4096
	sb.LogOffset = 8192
	sb.LogBytes = 512 << 10
	sb.Fingerprint = Fingerprint{Size: 4096, Count: 1, Blocks: [FingerprintBlocks]BlockSum{{Block: 0, CRC: 1}}}
	return sb
}

// recorder is a device that lists its writes and flushes, and can fail one of them.
type recorder struct {
	disk.Device
	ops    []string
	failAt int // the number of the operation that fails, from 1; 0: none
	err    error
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	if err := r.record("write %d+%d", off, len(p)); err != nil {
		return 0, err
	}
	return r.Device.WriteAt(p, off)
}

func (r *recorder) Flush() error {
	if err := r.record("flush"); err != nil {
		return err
	}
	return r.Device.Flush()
}

func (r *recorder) record(format string, args ...any) error {
	r.ops = append(r.ops, fmt.Sprintf(format, args...))
	if len(r.ops) == r.failAt {
		return r.err
	}
	return nil
}

// saved is a device with n saves of sb on it.
func saved(t *testing.T, sb *Superblock, n int) *disk.Mem {
	t.Helper()
	dev := disk.NewMem(sampleDevice)
	s := NewStore(dev, sb.Placement)
	for range n {
		if err := s.Save(sb); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}

// content is all of a device.
func content(t *testing.T, dev disk.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// seal makes a slot's checksum right again.
func seal(slot []byte) { le.PutUint32(slot[offCRC:], checksum(slot)) }
