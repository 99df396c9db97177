package journal

import (
	"errors"
	"testing"

	"jnbd/ordered"
	"jnbd/wal"
)

// FuzzRecord: whatever a record of the log says, it is refused or it means a range of the
// disk, and a MAP record that is taken is what mapRecord writes.
func FuzzRecord(f *testing.F) {
	f.Add(KindData, uint32(0), uint64(512), uint64(0), uint32(100), int64(1<<20))
	f.Add(KindZero, uint32(keepSpace), uint64(0), uint64(1<<20), uint32(0), int64(1<<20))
	f.Add(KindTrim, uint32(0), uint64(1<<63), uint64(1<<63), uint32(0), int64(1<<20))
	f.Add(KindMap, uint32(7), uint64(4096), uint64(3<<mapBlockBits|2), uint32(0), int64(1<<20))
	f.Add(KindMap, uint32(7), uint64(4096), uint64(1<<mapBlockBits-1), uint32(0), int64(1<<40))
	f.Add(KindHome, uint32(0), uint64(0), uint64(4096), uint32(0), int64(4096))
	f.Add(uint8(99), uint32(0), uint64(0), uint64(1), uint32(0), int64(4096))
	f.Fuzz(func(t *testing.T, kind uint8, aux uint32, a, b uint64, length uint32, disk int64) {
		r := wal.Located{Kind: kind, Aux: aux, A: a, B: b, PayloadPos: 1 << 20, PayloadLen: length}
		e, err := extentOf(&r, disk)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrTooNew) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		if e.off < 0 || e.end <= e.off || e.end > disk {
			t.Fatalf("[%d, %d) on a disk of %d bytes", e.off, e.end, disk)
		}
		if kind != KindMap {
			return
		}
		target := ordered.Target{Block: e.off / blockBytes, N: (e.end - e.off) / blockBytes, Home: e.state == mappedHome, Slot: e.slot}
		if again := mapRecord(target, e.crc); again.A != a || again.B != b || again.Aux != aux {
			t.Errorf("record %d %#x %#x is written as %d %#x %#x", aux, a, b, again.Aux, again.A, again.B)
		}
	})
}

// FuzzScript: a script that is taken is printed as text that means the same.
func FuzzScript(f *testing.F) {
	f.Add("disk 64K mode ordered spare 8K internal\nwrite 0 4K seed 1 fua\nchurn 0 512 3\nlose 2\ncrash 3 1\nagain 2 0\ncut barrier\n")
	f.Add("disk 100\nzero 0 10 keep\ntrim 99 1\n# comment\nidle\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseScript(text)
		if err != nil {
			return
		}
		again, err := parseScript(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q is printed as %q, which is %v: %v", text, s, again, err)
		}
	})
}
