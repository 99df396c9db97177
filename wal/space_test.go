package wal

import (
	"errors"
	"math/rand/v2"
	"testing"

	"jnbd/disk"
)

func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		size, segment int64
	}{
		{512 << 10, 64 << 10},
		{4<<20 - 1, 64 << 10},
		{4 << 20, 64 << 10},
		{8 << 20, 128 << 10},
		{64<<20 - 8192, 512 << 10},
		{64 << 20, 1 << 20},
		{256 << 20, 4 << 20},
		{512 << 20, 8 << 20},
		{1 << 30, 8 << 20},
		{1 << 40, 8 << 20},
	} {
		if got := SegmentBytesFor(c.size); got != c.segment {
			t.Errorf("segments of a log of %d bytes: got %d, want %d", c.size, got, c.segment)
		}
		rounded := c.size / c.segment * c.segment
		if got := SegmentBytesFor(rounded); got != c.segment {
			t.Errorf("segments after rounding down to %d bytes: got %d, want %d", rounded, got, c.segment)
		}
	}
	for _, size := range []int64{0, 4096, MinLogBytes - 1, MinLogBytes + 1, 8<<20 + 64<<10} {
		if _, err := Scan(disk.NewMem(size), ScanOptions{}, nil); err == nil {
			t.Errorf("a log of %d bytes was accepted", size)
		}
	}
}

// TestMaxAppendBytes: a batch of at most that much always fits into an empty log, wherever
// its head is and however the batch is cut into records.
func TestMaxAppendBytes(t *testing.T) {
	for seed := range uint64(24) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		size := int64(MinLogBytes) << rnd.IntN(5)
		l, _ := fresh(t, size, Options{SoftFlushBytes: 1 << 40})
		for round := range uint64(6) {
			appendOne(t, l, numbered(round, modelSizes(rnd, l.MaxRecordPayload())...))
			if err := l.Free(l.TailBefore(flush(t, l).Pos)); err != nil {
				t.Fatal(err)
			}
			var sizes []int
			typical := 1 + rnd.IntN(l.MaxRecordPayload())
			for left := l.MaxAppendBytes(); left >= RecordOverhead; {
				n := min(rnd.IntN(2*typical), l.MaxRecordPayload(), int(left-RecordOverhead))
				if seed%3 == 0 {
					n = min(l.MaxRecordPayload()-rnd.IntN(2), int(left-RecordOverhead))
				}
				sizes = append(sizes, n)
				left -= int64(n) + RecordOverhead
			}
			recs := numbered(round, sizes...)
			for i := range recs[:len(recs)-1] {
				recs[i].More = seed%2 == 0 // one request, or many
			}
			if err := l.Append(recs, make([]int64, len(recs))); err != nil {
				t.Fatalf("seed %d: log of %d bytes: %v", seed, size, err)
			}
			flush(t, l)
			if err := l.Free(l.TailBefore(l.Stats().Head)); err != nil {
				t.Fatal(err)
			}
		}
		closeLog(t, l)
	}
}

// TestTooBig: what can never fit is told apart from what doesn't fit now.
func TestTooBig(t *testing.T) {
	l, _ := fresh(t, MinLogBytes, Options{})
	appendOne(t, l, numbered(0, 4096))
	sizes := make([]int, 40)
	for i := range sizes {
		sizes[i] = l.MaxRecordPayload()
	}
	huge := numbered(1, sizes...)
	pos := make([]int64, len(huge))
	before := l.Stats()
	if err := l.Append(huge, pos); !errors.Is(err, ErrFull) {
		t.Errorf("with something in the log: got %v, want %v", err, ErrFull)
	}
	if err := l.Append(numbered(1, l.MaxRecordPayload()+1), pos[:1]); !errors.Is(err, ErrTooBig) {
		t.Errorf("payload too long: got %v, want %v", err, ErrTooBig)
	}
	if after := l.Stats(); after != before {
		t.Errorf("refused appends changed the log from %+v to %+v", before, after)
	}
	if err := l.Free(l.TailBefore(flush(t, l).Pos)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(huge, pos); !errors.Is(err, ErrTooBig) {
		t.Errorf("into the empty log: got %v, want %v", err, ErrTooBig)
	}
}

// TestBadBatches: what the format can't hold is refused, and leaves no trace.
func TestBadBatches(t *testing.T) {
	l, _ := fresh(t, MinLogBytes, Options{})
	before := l.Stats()
	for name, c := range map[string]struct {
		recs []Record
		pos  int
	}{
		"kind 0":       {[]Record{{Kind: 0}}, 1},
		"kind 128":     {[]Record{{Kind: 128}}, 1},
		"open request": {[]Record{{Kind: 1, More: true}}, 1},
		"no room":      {[]Record{{Kind: 1}}, 0},
	} {
		if err := l.Append(c.recs, make([]int64, c.pos)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := l.Append(nil, nil); err != nil {
		t.Errorf("empty batch: %v", err)
	}
	if after := l.Stats(); after != before {
		t.Errorf("the log went from %+v to %+v", before, after)
	}
}

// TestFullLogCanGoOn fills a log to the brim with batches of every size, and then does what
// a checkpointer does. Neither the barrier nor a restart may find it stuck.
func TestFullLogCanGoOn(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		g := &guard{Device: disk.NewMem(MinLogBytes), size: MinLogBytes}
		l, _ := open(t, g, ScanOptions{}, Options{SoftFlushBytes: 1 << 40}, nil)
		g.log = l
		var start Start
		for lap := range 5 {
			for size := l.MaxRecordPayload(); ; {
				err := l.Append(numbered(0, rnd.IntN(size+1)), make([]int64, 1))
				if errors.Is(err, ErrFull) {
					if size == 0 {
						break
					}
					size /= 2
				} else if err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(6) == 0 {
					flush(t, l)
				}
			}
			flush(t, l)
			if lap%2 == 1 { // crash after crash before anything can be freed
				for range 100 {
					closeLog(t, l)
					g.log = nil
					var r *ScanResult
					l, r = open(t, g, ScanOptions{Start: start}, Options{SoftFlushBytes: 1 << 40}, nil)
					g.log = l
					if r.End < start.DurableUpTo {
						t.Fatalf("ends at %#x, durable up to %#x", r.End, start.DurableUpTo)
					}
					if rnd.IntN(3) == 0 { // the superblock learns of the new mark
						start.DurableUpTo = l.Stats().DurableUpTo
					}
				}
			}
			tail := l.TailBefore(l.Stats().Head)
			if lap == 2 {
				tail = l.TailBefore(l.Stats().Tail + l.SegmentBytes())
			}
			var err error
			if start, err = l.StartAt(tail); err != nil {
				t.Fatal(err)
			}
			if err := l.Free(tail); err != nil {
				t.Fatal(err)
			}
		}
		if g.wrong != nil {
			t.Fatalf("seed %d: %v", seed, g.wrong)
		}
		closeLog(t, l)
	}
}

// TestRestartsNeedNoSpace: a log that is restarted over and over, and never freed, ends
// with a start frame in the same place, and keeps its requests.
func TestRestartsNeedNoSpace(t *testing.T) {
	dev := disk.NewMem(MinLogBytes)
	l, _ := open(t, dev, ScanOptions{}, Options{}, nil)
	appendOne(t, l, numbered(0, 1000))
	var heads []int64
	for range 300 {
		closeLog(t, l)
		rd := newReader(t, dev)
		l, _ = open(t, dev, ScanOptions{}, Options{}, rd.visit)
		if len(rd.reqs) != 1 {
			t.Fatalf("after %d restarts: requests %v", len(heads), rd.reqs)
		}
		heads = append(heads, l.Stats().Head)
	}
	if heads[299] != heads[298] || heads[299] > MinLogBytes {
		t.Errorf("heads after restarts: %#x", heads)
	}
	if heads[1] == heads[0] {
		t.Errorf("with space left, the second start frame took the place of the first at %#x", heads[0])
	}
}

func TestPins(t *testing.T) {
	l, _ := fresh(t, MinLogBytes, Options{})
	pos := appendOne(t, l, numbered(0, 4096))
	pin, err := l.Pin(pos[0])
	if err != nil {
		t.Fatal(err)
	}
	fill := func() (n int) {
		for {
			if err := l.Append(numbered(1, 4096), make([]int64, 1)); errors.Is(err, ErrFull) {
				return n
			} else if err != nil {
				t.Fatal(err)
			}
			n++
			if n > 1000 {
				t.Fatal("a pinned log never fills")
			}
		}
	}
	free := func() {
		if err := l.Free(l.TailBefore(flush(t, l).Pos)); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	free()
	if n := fill(); n > 4 {
		t.Errorf("%d more requests fit although the log is pinned", n)
	}
	p := make([]byte, 4096)
	if _, err := l.ReadAt(p, pos[0]); err != nil || string(p) != string(content(0, 0, 4096)) {
		t.Errorf("read under a pin: %v", err)
	}
	if _, err := l.Pin(pos[0] - LineBytes - SectorBytes); !errors.Is(err, ErrFreed) {
		t.Errorf("pin before the floor: got %v, want %v", err, ErrFreed)
	}
	pin.Move(0) // never back
	pin.Release()
	pin.Release()
	if _, err := l.ReadAt(p, pos[0]); !errors.Is(err, ErrFreed) {
		t.Errorf("read below the floor: got %v, want %v", err, ErrFreed)
	}
	if err := l.ReadCachedAt(p, pos[0]); !errors.Is(err, ErrFreed) {
		t.Errorf("cached read below the floor: got %v, want %v", err, ErrFreed)
	}
	if n := fill(); n < 20 {
		t.Errorf("only %d requests fit after the pin was released", n)
	}
}

// slowReader is a device on which something happens between a read and its return.
type slowReader struct {
	disk.Device
	meanwhile func()
}

func (s *slowReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Device.ReadAt(p, off)
	if s.meanwhile != nil {
		s.meanwhile()
	}
	return n, err
}

// TestFreedWhileReading: a read whose place was freed meanwhile says so, because its bytes
// may be those of a later lap.
func TestFreedWhileReading(t *testing.T) {
	dev := &slowReader{Device: disk.NewMem(MinLogBytes)}
	l, _ := open(t, dev, ScanOptions{}, Options{}, nil)
	pos := appendOne(t, l, numbered(0, 1000))
	tail := l.TailBefore(flush(t, l).Pos)
	dev.meanwhile = func() {
		if err := l.Free(tail); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.ReadAt(make([]byte, 1000), pos[0]); !errors.Is(err, ErrFreed) {
		t.Errorf("got %v, want %v", err, ErrFreed)
	}
}

// TestTails: what TailBefore offers, StartAt and Free take, whatever happens between; what
// is no legal tail is refused.
func TestTails(t *testing.T) {
	l, dev := fresh(t, 8*MinLogBytes, Options{SoftFlushBytes: 1 << 40})
	var at []int64
	for n := range uint64(40) {
		at = append(at, appendOne(t, l, numbered(n, 9000))[0])
	}
	if got := l.TailBefore(at[39]); got != 512 {
		t.Errorf("nothing is durable but the start frame: tail before %#x is %#x", at[39], got)
	}
	p := flush(t, l)
	for i, limit := range at {
		tail := l.TailBefore(limit)
		if tail > limit || tail > p.Pos {
			t.Errorf("tail before %#x is %#x", limit, tail)
		}
		start, err := l.StartAt(tail)
		if err != nil {
			t.Fatal(err)
		}
		rd := newReader(t, dev)
		r, err := Scan(dev, ScanOptions{Start: start}, rd.visit)
		if err != nil {
			t.Fatal(err)
		}
		first, last, ok := rd.span()
		if !ok || first > uint64(i) || last != 39 || r.End != p.Pos {
			t.Errorf("from tail %#x (before %#x, of request %d) a scan keeps requests %d to %d, and ends at %#x", tail, limit, i, first, last, r.End)
		}
	}
	if got := l.TailBefore(p.Pos); got != p.Pos {
		t.Errorf("tail before the barrier's end %#x is %#x", p.Pos, got)
	}
	for n := range uint64(200) {
		appendOne(t, l, numbered(40+n, 10))
		flush(t, l)
	}
	if _, err := l.StartAt(p.Pos); err != nil {
		t.Errorf("200 barriers after TailBefore: %v", err)
	}
	if err := l.Free(p.Pos); err != nil {
		t.Error(err)
	}
	boundary := l.geo.segmentEnd(l.Stats().Head)
	for l.Stats().Head < boundary {
		appendOne(t, l, numbered(240, 9000)) // not flushed
	}
	for _, bad := range []int64{boundary, 0, at[0], p.Pos - 512, p.Pos + 512, l.Stats().Head + l.SegmentBytes(), 1 << 60, -1} {
		if _, err := l.StartAt(bad); err == nil {
			t.Errorf("start at %#x was accepted", bad)
		}
		if err := l.Free(bad); err == nil {
			t.Errorf("free up to %#x was accepted", bad)
		}
	}
	if got := l.TailBefore(0); got != p.Pos {
		t.Errorf("tail before 0 is %#x, want the present one, %#x", got, p.Pos)
	}
	start, err := l.StartAt(p.Pos)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Start{
		{Tail: -512, TailSeq: 1},
		{Tail: 100, TailSeq: 1},
		{Tail: 4096},
		{Tail: start.Tail, TailSeq: start.TailSeq, Epoch: start.Epoch, DurableUpTo: 1 << 40},
	} {
		if _, err := Scan(dev, ScanOptions{Start: bad}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("scan from %+v: got %v, want %v", bad, err, ErrCorrupt)
		}
	}
}
