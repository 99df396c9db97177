package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"jnbd/disk"
)

// fields are the places of a frame that can rot, with the bytes they begin at.
var fields = []struct {
	name string
	off  int64
}{
	{"magic", offMagic},
	{"version", offVersion},
	{"kind", offKind},
	{"flags", offFlags},
	{"record count", offRecordCount},
	{"epoch", offEpoch},
	{"seq", offSeq},
	{"pos", offPos},
	{"length", offLength},
	{"payload bytes", offPayload},
	{"tail", offTail},
	{"durable", offDurable},
	{"previous summary", offPrevSummary},
	{"time", offTime},
	{"node", offNode},
	{"records checksum", offRecordsCRC},
	{"reserved", offReserved},
	{"header checksum", offHeaderCRC},
	{"record kind", headerBytes + offRecKind},
	{"record flags", headerBytes + offRecFlags},
	{"record reserved", headerBytes + offRecReserved},
	{"payload checksum", headerBytes + offRecPayloadCRC},
	{"payload length", headerBytes + offRecPayloadLen},
	{"aux", headerBytes + offRecAux},
	{"a", headerBytes + offRecA},
	{"b", headerBytes + offRecB},
	{"payload", headerBytes + recordBytes},
	{"padding", LineBytes - 1},
}

// flip changes one bit on the device.
func flip(t *testing.T, dev disk.Device, off int64, bit int) {
	t.Helper()
	var b [1]byte
	if _, err := dev.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := dev.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// TestBitFlips flips a bit in every field of a RECORDS frame. Whether that is a torn end
// or corruption depends on what is known to be durable, and from where.
func TestBitFlips(t *testing.T) {
	const (
		torn = iota
		corrupt
	)
	for _, c := range []struct {
		name  string
		build func(t *testing.T, l *Log) (victim int64, start Start)
		want  int
	}{
		{"last frame, never flushed", func(t *testing.T, l *Log) (int64, Start) {
			appendOne(t, l, numbered(0, 100))
			flush(t, l)
			return frameOf(appendOne(t, l, numbered(1, 100))), Start{}
		}, torn},
		{"frames behind it, never flushed", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			appendOne(t, l, numbered(1, 100))
			appendOne(t, l, numbered(2, 9000))
			return victim, Start{}
		}, torn},
		{"flushed, but nobody can know", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			flush(t, l)
			return victim, Start{}
		}, torn},
		{"the superblock says it is durable", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			p := flush(t, l)
			return victim, Start{DurableUpTo: p.Pos}
		}, corrupt},
		{"a later frame says it was durable", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			flush(t, l)
			appendOne(t, l, numbered(1, 100))
			return victim, Start{}
		}, corrupt},
		{"a later segment says it was durable", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			flush(t, l)
			for n := range uint64(12) {
				appendOne(t, l, numbered(1+n, 16000))
			}
			return victim, Start{}
		}, corrupt},
		{"only a later epoch says it was durable", func(t *testing.T, l *Log) (int64, Start) {
			victim := frameOf(appendOne(t, l, numbered(0, 100)))
			closeLog(t, l)
			next, _ := open(t, l.dev, ScanOptions{}, Options{}, nil)
			appendOne(t, next, numbered(1, 100))
			closeLog(t, next)
			return victim, Start{}
		}, corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range fields {
				for bit := range 8 {
					l, dev := fresh(t, MinLogBytes, steadyOptions())
					victim, start := c.build(t, l)
					closeLog(t, l)
					flip(t, dev, victim+f.off, bit)
					r, err := Scan(dev, ScanOptions{Start: start}, nil)
					switch {
					case c.want == corrupt && !errors.Is(err, ErrCorrupt):
						t.Errorf("%s bit %d: got %v, want %v", f.name, bit, err, ErrCorrupt)
					case c.want == torn && err != nil:
						t.Errorf("%s bit %d: got %v, want a torn end", f.name, bit, err)
					case c.want == torn && alignUp(r.End, SectorBytes) != alignUp(victim, SectorBytes):
						t.Errorf("%s bit %d: the chain ends at %#x, want %#x", f.name, bit, r.End, victim)
					}
				}
			}
		})
	}
}

// frameOf is where the frame begins whose first payload is at pos[0].
func frameOf(pos []int64) int64 { return alignDown(pos[0], LineBytes) }

// TestDamageByKind overwrites a line of each kind of frame, at its head or behind it.
func TestDamageByKind(t *testing.T) {
	for _, c := range []struct {
		frame   string
		durable bool
		verify  bool
		want    error
	}{
		{"start", true, false, ErrCorrupt},
		{"records", true, false, ErrCorrupt},
		{"records", true, true, ErrCorrupt},
		{"barrier", true, false, ErrCorrupt},
		{"pad", true, false, ErrCorrupt},
		{"pad", true, true, ErrCorrupt},
		{"summary", true, false, ErrCorrupt},
		{"summary-incomplete", true, false, ErrCorrupt},
		{"summary", false, false, nil},
		{"summary-incomplete", false, false, nil},
	} {
		t.Run(fmt.Sprintf("%s durable %v verify %v", c.frame, c.durable, c.verify), func(t *testing.T) {
			dev := disk.NewMem(MinLogBytes)
			l, frames := sampleLog(t, dev)
			start := Start{}
			if c.durable {
				start.DurableUpTo = l.Stats().Barrier.Pos
			} else {
				// As if nothing had been flushed since the victim.
				zero := make([]byte, l.geo.size-frames[c.frame]-LineBytes)
				if _, err := dev.WriteAt(zero, frames[c.frame]+LineBytes); err != nil {
					t.Fatal(err)
				}
			}
			flip(t, dev, frames[c.frame]+offTime, 3)
			r, err := Scan(dev, ScanOptions{Start: start, VerifyAll: c.verify}, nil)
			covered := c.durable && !c.verify && (c.frame == "records" || c.frame == "barrier" || c.frame == "pad")
			if covered {
				// The SUMMARY behind it says what it said. Only a full check sees more.
				if err != nil {
					t.Fatal(err)
				}
				_, err = Scan(dev, ScanOptions{Start: start, VerifyAll: true}, nil)
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if c.want == nil && r.End != frames[c.frame] {
				t.Errorf("the chain ends at %#x, want %#x", r.End, frames[c.frame])
			}
		})
	}
}

// TestSummaryMustMatch: a check of everything finds a SUMMARY that verifies but lies.
func TestSummaryMustMatch(t *testing.T) {
	dev := disk.NewMem(MinLogBytes)
	l, frames := sampleLog(t, dev)
	frame := make([]byte, 1024)
	if _, err := dev.ReadAt(frame, frames["summary"]); err != nil {
		t.Fatal(err)
	}
	h, why := decodeHeader(l.geo, frame)
	if why != nil {
		t.Fatal(why)
	}
	payload := frame[headerBytes+recordBytes:][:h.payload]
	payload[len(payload)-1] ^= 1 // B of the last record
	putRecord(frame[headerBytes:], recSummary, false, crcOf(payload), uint32(len(payload)), 0, 0, 0)
	resealFrame(frame, Version)
	if _, err := dev.WriteAt(frame, frames["summary"]); err != nil {
		t.Fatal(err)
	}
	if _, err := Scan(dev, ScanOptions{VerifyAll: true}, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
}

// TestLyingSummary: a SUMMARY that verifies but doesn't fit the chain is not believed. The
// segment is read frame by frame instead, and shows the same.
func TestLyingSummary(t *testing.T) {
	le := binary.LittleEndian
	add := func(off int, n uint64) func([]byte) {
		return func(b []byte) { le.PutUint64(b[off:], le.Uint64(b[off:])+n) }
	}
	entry := func(n int) int { // of sampleLog's index; the first has three records
		if n == 0 {
			return summaryHeadBytes
		}
		return summaryHeadBytes + entryBytes + startRecords*recordBytes
	}
	add32 := func(off int, n uint32) func([]byte) {
		return func(b []byte) { le.PutUint32(b[off:], le.Uint32(b[off:])+n) }
	}
	var bytesRead int64
	for _, c := range []struct {
		name string
		lie  func(b []byte)
	}{
		{"none", func([]byte) {}}, // goes first
		{"from", add(offSumFrom, LineBytes)},
		{"from before", add(offSumFrom, 1<<63)},
		{"last seq", add(offSumLastSeq, 1)},
		{"first seq", add(offSumFirstSeq, 1000)},
		{"one entry less", add32(offSumEntries, ^uint32(0))},
		{"one entry more", add32(offSumEntries, 1)},
		{"flags", add32(offSumFlags, 2)},
		{"reserved", add(offSumReserved+8, 1)},
		{"entry's seq", add32(entry(1)+offEntSeq, 1)},
		{"entry's offset", add32(entry(1)+offEntOffset, LineBytes)},
		{"far offset", add32(entry(1)+offEntOffset, 1<<20)},
		{"entry's length", add32(entry(1)+offEntLength, LineBytes)},
		{"entry's records", add32(entry(1)+offEntRecords, 1)},
		{"many records", add32(entry(1)+offEntRecords, 1<<20)},
		{"entry's payload", add32(entry(1)+offEntPayload, 1)},
		{"entry's kind", func(b []byte) { b[entry(1)+offEntKind] = byte(KindPad) }},
		{"entry's flags", func(b []byte) { b[entry(1)+offEntFlags] = byte(FlagMore) }},
		{"entry's reserved", func(b []byte) { b[entry(1)+offEntReserved] = 1 }},
		{"start's previous", func(b []byte) { b[entry(0)+entryBytes+offRecA] ^= 1 }},
		{"start's epoch", func(b []byte) { b[entry(0)+entryBytes+2*recordBytes+offRecA] ^= 1 }},
		{"record's kind", func(b []byte) { b[entry(1)+entryBytes+offRecKind] = 200 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := disk.NewMem(MinLogBytes)
			l, frames := sampleLog(t, dev)
			frame := make([]byte, 1024)
			if _, err := dev.ReadAt(frame, frames["summary"]); err != nil {
				t.Fatal(err)
			}
			payload := frame[headerBytes+recordBytes:][:le.Uint32(frame[offPayload:])]
			c.lie(payload)
			putRecord(frame[headerBytes:], recSummary, false, crcOf(payload), uint32(len(payload)), 0, 0, 0)
			resealFrame(frame, Version)
			if _, err := dev.WriteAt(frame, frames["summary"]); err != nil {
				t.Fatal(err)
			}
			first := 0
			// All of it is durable, so a SUMMARY is taken wherever it is sound.
			r, err := Scan(dev, ScanOptions{Start: Start{DurableUpTo: l.Stats().DurableUpTo}}, func(f *Frame) error {
				if f.End() <= frames["summary"] {
					first++
					if want := uint64(first); f.Seq != want || (f.Kind == KindStart) != (first == 1) {
						return fmt.Errorf("frame %d: %+v", first, f)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if first != 7 || r.End != l.Stats().Head {
				t.Errorf("%d frames of the first segment were shown, the chain ends at %#x", first, r.End)
			}
			// The last segments and the search behind the end are always read; the first
			// one is if its SUMMARY was not taken.
			if c.name == "none" {
				bytesRead = r.BytesRead
			} else if r.BytesRead < bytesRead+MinSegmentBytes/2 {
				t.Errorf("%d bytes were read, with a sound summary %d: it was believed", r.BytesRead, bytesRead)
			}
		})
	}
}

// TestUnmarkedFrame: on the next 4 KiB line only a frame that is marked so goes on.
func TestUnmarkedFrame(t *testing.T) {
	l, dev := fresh(t, MinLogBytes, steadyOptions())
	appendOne(t, l, numbered(0, 100))
	p := flush(t, l)
	pos := appendOne(t, l, numbered(1, 100))
	closeLog(t, l)
	frame := make([]byte, LineBytes)
	if _, err := dev.ReadAt(frame, frameOf(pos)); err != nil {
		t.Fatal(err)
	}
	frame[offFlags] &^= byte(FlagAligned)
	frame[offDurable] = 0 // it says nothing of what is durable, so this is no corruption
	frame[offDurable+1] = 0
	resealFrame(frame, Version)
	if _, err := dev.WriteAt(frame, frameOf(pos)); err != nil {
		t.Fatal(err)
	}
	if r, err := Scan(dev, ScanOptions{}, nil); err != nil || r.End != p.Pos {
		t.Errorf("%+v, %v; want the end at %#x", r, err, p.Pos)
	}
}

// FuzzScan changes bytes of a log and scans it. It never fails otherwise than by saying so,
// and what it shows are whole requests in order.
func FuzzScan(f *testing.F) {
	f.Add(uint64(1), []byte{0, 0, 1, 0xff}, false, false)
	f.Add(uint64(2), []byte{0, 0x10, 0, 1, 0, 0x10, 0x20, 2}, true, false)
	f.Add(uint64(3), []byte{1, 0, 12, 1}, false, true)
	base := disk.NewMem(MinLogBytes)
	r, err := Scan(base, ScanOptions{}, nil)
	if err != nil {
		f.Fatal(err)
	}
	l, err := Continue(base, r, steadyOptions())
	if err != nil {
		f.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := uint64(0); l.Stats().Free > 64<<10; n++ {
		recs := numbered(n, modelSizes(rnd, l.MaxRecordPayload())...)
		if err := l.Append(recs, make([]int64, len(recs))); err != nil {
			break
		}
		if n%4 == 0 {
			if _, err := l.Flush(); err != nil {
				f.Fatal(err)
			}
		}
	}
	durable := l.Stats().Barrier.Pos
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	image := make([]byte, MinLogBytes)
	if _, err := base.ReadAt(image, 0); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte, mark, all bool) {
		dev := disk.NewMem(MinLogBytes)
		if _, err := dev.WriteAt(image, 0); err != nil {
			t.Fatal(err)
		}
		for i := 0; i+4 <= len(edits) && i < 64; i += 4 {
			// 24 bits of place, spread over the log with the frames' grain; 8 of change
			off := (int64(edits[i])<<16 | int64(edits[i+1])<<8 | int64(edits[i+2])) % MinLogBytes
			var b [1]byte
			if _, err := dev.ReadAt(b[:], off); err != nil {
				t.Fatal(err)
			}
			b[0] ^= edits[i+3]
			if _, err := dev.WriteAt(b[:], off); err != nil {
				t.Fatal(err)
			}
		}
		var start Start
		if mark {
			start.DurableUpTo = durable
		}
		rd := newReader(t, dev)
		rd.full = false
		res, err := Scan(dev, ScanOptions{Start: start, VerifyAll: all, Cut: Cut(seed % 2)}, rd.visit)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooNew) {
				t.Fatal(err)
			}
			return
		}
		if rd.inReq {
			t.Fatal("part of a request was shown")
		}
		if mark && res.End < durable {
			t.Fatalf("cut at %#x, durable up to %#x", res.End, durable)
		}
	})
}
