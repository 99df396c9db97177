package wal

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jnbd/disk"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew (only before a release of the format)")

// sampleLog is a small log that holds a frame of every kind, and where each is.
func sampleLog(t testing.TB, dev disk.Device) (*Log, map[string]int64) {
	t.Helper()
	r, err := Scan(dev, ScanOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := steadyOptions()
	opt.SoftFlushBytes = 1 << 40
	l, err := Continue(dev, r, opt)
	if err != nil {
		t.Fatal(err)
	}
	frames := map[string]int64{"start": 0}
	add := func(recs ...Record) int64 {
		pos := make([]int64, len(recs))
		if err := l.Append(recs, pos); err != nil {
			t.Fatal(err)
		}
		return alignDown(pos[0], LineBytes)
	}
	barrier := func() int64 {
		p, err := l.Flush()
		if err != nil {
			t.Fatal(err)
		}
		return p.Pos - LineBytes
	}
	frames["records-aligned"] = add(
		Record{Kind: 1, More: true, Aux: 3, A: 4096, B: 5, Payload: []byte("the first half, ")},
		Record{Kind: 1, Aux: 4, A: 8192, B: 6, Payload: []byte("and the second")},
		Record{Kind: 127, Aux: 0xffffffff, A: 1 << 63, B: 1<<64 - 1},
	)
	frames["records"] = add(Record{Kind: 2, A: 7, Payload: []byte("alone")})
	frames["barrier"] = barrier()
	big := make([]byte, l.MaxRecordPayload())
	for range 3 {
		add(Record{Kind: 3, Payload: big})
	}
	add(Record{Kind: 3, Payload: big}) // doesn't fit: PAD, SUMMARY
	frames["pad"] = 0x2000 + 3*frameBytes(1, int64(len(big)))
	frames["summary"] = l.geo.seg
	for l.Stats().Head < 3*l.geo.seg {
		add(Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4},
			Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4}, Record{Kind: 4})
	}
	frames["summary-incomplete"] = 3 * l.geo.seg
	barrier()
	foreseen := make([]int64, 1)
	if err := l.AppendBarrier([]Record{{Kind: 5, Aux: 6, A: 4096, B: 7, Payload: []byte("flushed next")}}, foreseen); err != nil {
		t.Fatal(err)
	}
	frames["records-barrier"] = alignDown(foreseen[0], LineBytes)
	if p := barrier(); p != frames["records-barrier"] {
		t.Fatalf("the flush wrote a barrier at %#x, foreseen was one at %#x", p, frames["records-barrier"])
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l, frames
}

// frameTree prints what a frame says, a line per field.
func frameTree(geo geometry, frame []byte) string {
	h, why := decodeHeader(geo, frame)
	if why != nil {
		return fmt.Sprintf("no frame: %v\n", why)
	}
	var b strings.Builder
	line := func(indent int, name, format string, args ...any) {
		fmt.Fprintf(&b, "%s%-12s %s\n", strings.Repeat("  ", indent), name, fmt.Sprintf(format, args...))
	}
	line(0, "frame", "%v", h.kind)
	line(1, "version", "%d", h.version)
	line(1, "flags", "%v", h.flags)
	line(1, "epoch", "%v", h.epoch)
	line(1, "seq", "%d", h.seq)
	line(1, "pos", "%#x", h.pos)
	line(1, "length", "%d", h.length)
	line(1, "payload", "%d", h.payload)
	line(1, "tail", "%#x", h.tail)
	line(1, "durable", "%#x", h.durable)
	line(1, "prevSummary", "%#x", h.prevSummary)
	line(1, "time", "%s", timeOf(h.time).Format("2006-01-02T15:04:05.000000000Z"))
	line(1, "node", "%d", h.node)
	line(1, "recordsCRC", "%08x", h.recordsCRC)
	if h.kind == KindPad {
		return b.String()
	}
	recs, tear := verifyBody(geo, &h, frame)
	if tear != nil {
		return b.String() + fmt.Sprintf("body: %v\n", tear)
	}
	at := headerBytes + int64(len(recs))
	for r := 0; r < len(recs); r += recordBytes {
		rec := decodeRecord(recs[r:], h.pos+at)
		line(1, "record", "kind %d more %v aux %#x a %#x b %#x", rec.Kind, rec.More, rec.Aux, rec.A, rec.B)
		line(2, "payload", "%d bytes at %#x, crc %08x", rec.PayloadLen, rec.PayloadPos, rec.PayloadCRC)
		at += int64(rec.PayloadLen)
	}
	switch h.kind {
	case KindStart:
		k := decodeLink(recs)
		line(1, "link", "previous %v end %#x lastSeq %d epoch %v node %d", k.previous, k.end, k.lastSeq, k.epoch, k.node)
	case KindSummary:
		s, why := decodeSummary(geo, &h, frame[headerBytes+recordBytes:][:h.payload])
		if why != nil {
			return b.String() + fmt.Sprintf("index: %v\n", why)
		}
		line(1, "index", "from %#x seq %d epoch %v lastSeq %d open %v entries %d", s.from.pos, s.from.seq, s.from.epoch, s.lastSeq, s.open, s.count)
		for range s.count {
			e, recs, rest, why := s.next(geo, &h)
			if why != nil {
				return b.String() + fmt.Sprintf("entry: %v\n", why)
			}
			line(2, "entry", "%v %v pos %#x length %d seq %d payload %d time %s", e.kind, e.flags, e.pos, e.length, e.seq, e.payload,
				timeOf(e.time).Format("15:04:05"))
			for r := 0; r < len(recs); r += recordBytes {
				rec := decodeRecord(recs[r:], 0)
				line(3, "record", "kind %d more %v aux %#x a %#x b %#x, %d bytes, crc %08x", rec.Kind, rec.More, rec.Aux, rec.A, rec.B, rec.PayloadLen, rec.PayloadCRC)
			}
			s = rest
		}
	}
	return b.String()
}

// TestGoldenFrames holds the writer to the bytes of every released version, and the reader
// to what they mean. Each file is the decoded tree, an empty line, and a hex dump.
func TestGoldenFrames(t *testing.T) {
	dev := disk.NewMem(MinLogBytes)
	l, frames := sampleLog(t, dev)
	for name, pos := range frames {
		t.Run(name, func(t *testing.T) {
			head := make([]byte, LineBytes)
			if _, err := dev.ReadAt(head, pos); err != nil {
				t.Fatal(err)
			}
			h, why := decodeHeader(l.geo, head)
			if why != nil {
				t.Fatal(why)
			}
			frame := head
			if h.kind != KindPad { // of a PAD, only the first line is written
				frame = make([]byte, h.length)
				if _, err := dev.ReadAt(frame, pos); err != nil {
					t.Fatal(err)
				}
			}
			got := frameTree(l.geo, frame) + "\n" + hex.Dump(frame)
			path := filepath.Join("testdata", "v1-"+name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the writer's bytes are not those of %s:\n%s", path, diff)
			}
			tree, dump, _ := strings.Cut(string(want), "\n\n")
			if diff := cmp.Diff(tree+"\n", frameTree(l.geo, undump(t, dump))); diff != "" {
				t.Errorf("the reader sees something else in %s:\n%s", path, diff)
			}
		})
	}
}

// undump takes the bytes back from a hex dump.
func undump(t *testing.T, dump string) []byte {
	t.Helper()
	var b []byte
	for line := range strings.Lines(dump) {
		if len(line) < 60 {
			continue
		}
		p, err := hex.DecodeString(strings.ReplaceAll(line[9:59], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, p...)
	}
	return b
}

// reseal makes the checksums of a frame right again after its header or records changed.
func resealFrame(frame []byte, version uint16) {
	binary.LittleEndian.PutUint16(frame[offVersion:], version)
	n := headerBytes + int(binary.LittleEndian.Uint32(frame[offRecordCount:]))*recordBytes
	if n <= len(frame) {
		binary.LittleEndian.PutUint32(frame[offRecordsCRC:], crc32.Update(seedOf(frame), castagnoli, frame[headerBytes:n]))
	}
	binary.LittleEndian.PutUint32(frame[offHeaderCRC:], crc32.Update(seedOf(frame), castagnoli, frame[:offHeaderCRC]))
}

// TestNextVersion: a frame of a newer version where the chain goes on is neither a torn
// end nor corruption, wherever it is and whatever else it says.
func TestNextVersion(t *testing.T) {
	for _, name := range []string{"start", "records-aligned", "records", "barrier", "summary", "records-barrier"} {
		for _, durable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s durable %v", name, durable), func(t *testing.T) {
				dev := disk.NewMem(MinLogBytes)
				l, frames := sampleLog(t, dev)
				frame := make([]byte, LineBytes)
				if _, err := dev.ReadAt(frame, frames[name]); err != nil {
					t.Fatal(err)
				}
				for i := offTail; i < offHeaderCRC; i++ {
					frame[i] ^= 0xff // what the next version means by these is unknown
				}
				frame[offKind] = 99
				resealFrame(frame, Version+1)
				if _, err := dev.WriteAt(frame, frames[name]); err != nil {
					t.Fatal(err)
				}
				var start Start
				if durable {
					start.DurableUpTo = l.Stats().Barrier.Pos
				}
				// Everything behind it is gone, as if the newer version had written on.
				if !durable {
					rest := make([]byte, l.geo.size-frames[name]-LineBytes)
					if _, err := dev.WriteAt(rest, frames[name]+LineBytes); err != nil {
						t.Fatal(err)
					}
				}
				_, err := Scan(dev, ScanOptions{Start: start, VerifyAll: true}, nil)
				if !errors.Is(err, ErrTooNew) || errors.Is(err, ErrCorrupt) {
					t.Errorf("got %v, want %v", err, ErrTooNew)
				}
			})
		}
	}
}

// FuzzFrame: the decoder never fails on anything, and what it accepts encodes to the same
// bytes.
func FuzzFrame(f *testing.F) {
	dev := disk.NewMem(MinLogBytes)
	_, frames := sampleLog(f, dev)
	for _, pos := range frames {
		head := make([]byte, 2*LineBytes)
		if _, err := dev.ReadAt(head, pos); err != nil {
			f.Fatal(err)
		}
		f.Add(head, true)
	}
	f.Add([]byte{}, false)
	geo := geometry{size: MinLogBytes, seg: MinSegmentBytes}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if len(b) < LineBytes {
			return
		}
		if mend { // most inputs fail at a checksum and prove little
			resealFrame(b, binary.LittleEndian.Uint16(b[offVersion:]))
		}
		h, why := decodeHeader(geo, b)
		if why != nil {
			return
		}
		head := make([]byte, headerBytes)
		h.encode(head)
		if diff := cmp.Diff(b[:headerBytes], head); diff != "" {
			t.Fatalf("header encodes to something else:\n%s", diff)
		}
		if h.kind == KindPad || h.length > int64(len(b)) {
			return
		}
		recs, tear := verifyBody(geo, &h, b[:h.length])
		if tear != nil {
			return
		}
		again := make([]byte, h.length)
		at := int64(headerBytes + len(recs))
		for r := 0; r < len(recs); r += recordBytes {
			rec := decodeRecord(recs[r:], at)
			putRecord(again[headerBytes+r:], rec.Kind, rec.More, rec.PayloadCRC, rec.PayloadLen, rec.Aux, rec.A, rec.B)
			at += int64(copy(again[at:], b[at:at+int64(rec.PayloadLen)]))
		}
		h.seal(again[:headerBytes+len(recs)])
		if diff := cmp.Diff(b[:h.length], again); diff != "" {
			t.Fatalf("frame encodes to something else:\n%s", diff)
		}
		if h.kind == KindSummary {
			if s, why := decodeSummary(geo, &h, b[headerBytes+recordBytes:][:h.payload]); why == nil {
				_ = s.walk(geo, &h, s.from, nil, func(*header, []byte, chain) error { return nil })
			}
		}
	})
}
