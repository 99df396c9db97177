package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"jnbd/disk"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFormat: an older log is gone, whatever it held, and progress ends at the size.
func TestFormat(t *testing.T) {
	dev := disk.NewMem(MinLogBytes)
	l, _ := open(t, dev, ScanOptions{}, Options{}, nil)
	for n := range uint64(100) {
		appendOne(t, l, numbered(n, 3000))
	}
	closeLog(t, l)
	var last int64
	err := Format(dev, func(done, total int64) {
		if done <= last || total != MinLogBytes {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || last != MinLogBytes {
		t.Fatalf("format ended at %d: %v", last, err)
	}
	all := make([]byte, MinLogBytes)
	if _, err := dev.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	for i, b := range all {
		if b != 0 {
			t.Fatalf("byte %d is %#x", i, b)
		}
	}
	r, err := Scan(dev, ScanOptions{}, func(*Frame) error { return errors.New("a frame") })
	if err != nil || r.End != 0 || r.NextSeq != firstSeq || r.Dropped.Stranded != 0 {
		t.Errorf("scan of an empty log: %+v, %v", r, err)
	}
}

// TestSameLogEitherWay: a scan by summaries shows what a scan of every frame shows, and
// reads much less.
func TestSameLogEitherWay(t *testing.T) {
	l, dev := fresh(t, 16<<20, steadyOptions())
	for n := uint64(0); ; n++ {
		err := l.Append(numbered(n, 4096, int(n%300)), make([]int64, 2))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%64 == 0 {
			flush(t, l)
		}
	}
	// A small log's index would leave small frames out: these are enough for that.
	flush(t, l)
	start, err := l.StartAt(l.TailBefore(l.Stats().Tail + 5*l.SegmentBytes()/2))
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	list := func(opt ScanOptions) (frames []Frame, r *ScanResult) {
		opt.Start = start
		r, err := Scan(dev, opt, func(f *Frame) error {
			kept := *f
			kept.Tail, kept.DurableUpTo = 0, 0
			kept.Records = append([]Located(nil), f.Records...)
			frames = append(frames, kept)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return frames, r
	}
	quick, rq := list(ScanOptions{})
	slow, rs := list(ScanOptions{VerifyAll: true, Direct: true})
	cut, rc := list(ScanOptions{Cut: CutBarrier})
	if diff := cmp.Diff(slow, quick); diff != "" {
		t.Errorf("by summaries a scan shows something else:\n%s", diff)
	}
	if diff := cmp.Diff(slow, cut); diff != "" {
		t.Errorf("up to the last barrier, which is the end, a scan shows something else:\n%s", diff)
	}
	if late, r := list(ScanOptions{SkipProven: true}); len(late) == 0 || len(late)*4 > len(slow) || r.End != rs.End || r.DurableUpTo != rs.DurableUpTo {
		t.Errorf("without proven segments %d of %d frames are shown, up to %#x, durable up to %#x", len(late), len(slow), r.End, r.DurableUpTo)
	} else if diff := cmp.Diff(slow[len(slow)-len(late):], late); diff != "" {
		t.Errorf("without proven segments a scan shows something else:\n%s", diff)
	}
	for name, r := range map[string]*ScanResult{"summaries": rq, "barrier": rc} {
		if r.End != rs.End || r.NextSeq != rs.NextSeq || r.Frames != rs.Frames || r.Records != rs.Records ||
			r.Summaries != rs.Summaries || r.Barrier != rs.Barrier || r.DurableUpTo != rs.DurableUpTo {
			t.Errorf("%s: %+v\neverything: %+v", name, r, rs)
		}
	}
	if rs.Summaries < 10 || rq.BytesRead*4 > rs.BytesRead {
		t.Errorf("%d summaries; by them %d bytes were read, without %d", rs.Summaries, rq.BytesRead, rs.BytesRead)
	}
}

// TestSkipProven: what lies behind the durable mark is shown, also where its segment is proven in part.
func TestSkipProven(t *testing.T) {
	l, dev := fresh(t, 16<<20, steadyOptions())
	segments := func(n int64) {
		for to := l.Stats().Head + n*l.SegmentBytes(); l.Stats().Head < to; {
			appendOne(t, l, numbered(l.Stats().NextSeq, 4096))
		}
	}
	segments(3)
	appendOne(t, l, numbered(0, 4096))
	flush(t, l)
	durable := l.Stats().DurableUpTo
	segments(3)
	closeLog(t, l)
	frames := func(opt ScanOptions) (before, behind []int64) {
		r, err := Scan(dev, opt, func(f *Frame) error {
			if f.Pos < durable {
				before = append(before, f.Pos)
			} else {
				behind = append(behind, f.Pos)
			}
			return nil
		})
		if err != nil || r.DurableUpTo != durable {
			t.Fatalf("durable up to %#x, want %#x; %v", r.DurableUpTo, durable, err)
		}
		return before, behind
	}
	all, want := frames(ScanOptions{})
	some, got := frames(ScanOptions{SkipProven: true})
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("%d of %d frames behind the mark are shown", len(got), len(want))
	}
	if len(some) >= len(all) {
		t.Errorf("all %d frames before the mark are shown", len(some))
	}
}

// TestDroppedRequest: a request that lost its end is dropped whole. The frames of it that
// still verify stand before the next start frame, and must never come back.
func TestDroppedRequest(t *testing.T) {
	for _, lead := range []int{0, 100, 1000, 2500, 3000, 3500} {
		t.Run(fmt.Sprint(lead), func(t *testing.T) {
			l, dev := fresh(t, MinLogBytes, steadyOptions())
			appendOne(t, l, numbered(0, 100))
			flush(t, l)
			if lead > 0 {
				appendOne(t, l, numbered(1, lead))
			}
			kept := l.Stats()
			// Fill the segment but for a little, so that the request begins with a
			// short frame there and goes on in the next segment.
			room := l.geo.segmentEnd(kept.Head) - alignUp(kept.Head, LineBytes)
			n := uint64(2)
			if lead == 0 {
				n = 1
			}
			for room > 20<<10 {
				appendOne(t, l, numbered(n, 15000))
				n++
				room = l.geo.segmentEnd(l.Stats().Head) - l.Stats().Head
			}
			for room > 1536 {
				appendOne(t, l, numbered(n, 10))
				n++
				room = l.geo.segmentEnd(l.Stats().Head) - l.Stats().Head
			}
			before := l.Stats()
			pos := appendOne(t, l, numbered(n, 200, 300, 16000, 16000))
			if l.geo.segmentEnd(pos[0]) == l.geo.segmentEnd(pos[3]) {
				t.Fatalf("the request doesn't span segments: %#x", pos)
			}
			closeLog(t, l)
			flip(t, dev, pos[3]+100, 1) // never flushed: torn
			rd := newReader(t, dev)
			l, r := open(t, dev, ScanOptions{}, Options{}, rd.visit)
			if _, last, _ := rd.span(); last != n-1 || r.End != before.Head {
				t.Fatalf("kept requests to %d, to %#x; want %d, %#x; %+v", last, r.End, n-1, before.Head, r.Dropped)
			}
			if r.Dropped.Frames < 1 {
				t.Errorf("dropped %+v", r.Dropped)
			}
			// One more of the same number takes its place, and it alone is there later.
			for i := range uint64(3) {
				appendOne(t, l, numbered(n+i, 50))
				flush(t, l)
				rd := newReader(t, dev)
				if _, err := Scan(dev, ScanOptions{VerifyAll: i == 1}, rd.visit); err != nil {
					t.Fatal(err)
				}
				if _, last, _ := rd.span(); last != n+i {
					t.Fatalf("kept requests to %d, want %d", last, n+i)
				}
			}
		})
	}
}

// TestStaleFrames: what an earlier incarnation left behind the cut doesn't come back, even
// where new frames end exactly where old ones begin.
func TestStaleFrames(t *testing.T) {
	l, dev := fresh(t, MinLogBytes, steadyOptions())
	appendOne(t, l, numbered(0, 100))
	flush(t, l)
	victim := frameOf(appendOne(t, l, numbered(1, 100)))
	for n := range uint64(10) {
		appendOne(t, l, numbered(2+n, 100))
	}
	closeLog(t, l)
	flip(t, dev, victim+offTime, 0)
	for round := range uint64(3) {
		rd := newReader(t, dev)
		r, err := Scan(dev, ScanOptions{}, rd.visit)
		if err != nil {
			t.Fatal(err)
		}
		if _, last, _ := rd.span(); last != round {
			t.Fatalf("round %d: kept requests to %d; %+v", round, last, r)
		}
		if round == 0 && r.Dropped.Stranded != 10 {
			t.Errorf("%d frames are stranded, want 10", r.Dropped.Stranded)
		}
		l, err := Continue(dev, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		appendOne(t, l, numbered(round+1, 100)) // as long as the old ones
		closeLog(t, l)
	}
}

// TestCutAtBarrier: recover=barrier leaves out what came after the last barrier, and that
// doesn't come back either.
func TestCutAtBarrier(t *testing.T) {
	l, dev := fresh(t, MinLogBytes, steadyOptions())
	appendOne(t, l, numbered(0, 100))
	p := flush(t, l)
	appendOne(t, l, numbered(1, 100))
	appendOne(t, l, numbered(2, 30000/2))
	closeLog(t, l)
	rd := newReader(t, dev)
	l, r := open(t, dev, ScanOptions{Cut: CutBarrier}, Options{}, rd.visit)
	if r.End != p.Pos || r.Barrier != p || r.Dropped.Frames != 2 || len(rd.reqs) != 1 {
		t.Errorf("kept %v; %+v; want the cut at %+v", rd.reqs, r, p)
	}
	appendOne(t, l, numbered(1, 100))
	closeLog(t, l)
	rd = newReader(t, dev)
	if _, err := Scan(dev, ScanOptions{}, rd.visit); err != nil || len(rd.reqs) != 2 {
		t.Errorf("kept %v: %v", rd.reqs, err)
	}
}

// TestVisitError: an error of visit ends the scan and comes back.
func TestVisitError(t *testing.T) {
	l, dev := fresh(t, MinLogBytes, steadyOptions())
	appendOne(t, l, numbered(0, 100))
	flush(t, l)
	closeLog(t, l)
	want := errors.New("enough")
	for _, cut := range []Cut{CutPrefix, CutBarrier} {
		if _, err := Scan(dev, ScanOptions{Cut: cut}, func(*Frame) error { return want }); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// TestReader reads a log that nobody continues, as a read-only server does.
func TestReader(t *testing.T) {
	l, dev := fresh(t, MinLogBytes, steadyOptions())
	pos := appendOne(t, l, numbered(5, 3000))
	closeLog(t, l)
	before := make([]byte, MinLogBytes)
	if _, err := dev.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	rd, err := NewReader(dev)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 3000)
	if n, err := rd.ReadAt(p, pos[0]); n != len(p) || err != nil || string(p) != string(content(5, 0, 3000)) {
		t.Errorf("read %d bytes: %v", n, err)
	}
	clear(p)
	if err := rd.ReadCachedAt(p, pos[0]); err != nil || string(p) != string(content(5, 0, 3000)) {
		t.Errorf("cached: %v", err)
	}
	for _, bad := range []int64{-1, rd.SegmentBytes() - 1} {
		if _, err := rd.ReadAt(p, bad); err == nil {
			t.Errorf("read at %#x was accepted", bad)
		}
	}
}

// TestStream reads committed frames from every place where a chain can be entered, across
// restarts and laps.
func TestStream(t *testing.T) {
	dev, opt := disk.NewMem(MinLogBytes), steadyOptions()
	l, _ := open(t, dev, ScanOptions{}, opt, nil)
	n := uint64(0)
	for restart := range 3 {
		for range 12 {
			appendOne(t, l, numbered(n, 500, 6000))
			n++
			if n%3 == 0 {
				flush(t, l)
			}
		}
		flush(t, l)
		if restart < 2 {
			closeLog(t, l)
			l, _ = open(t, dev, ScanOptions{}, opt, nil)
		}
	}
	appendOne(t, l, numbered(n, 100)) // not committed
	var places []int64
	if _, err := l.Frames(0, func(f *Frame) error {
		places = append(places, f.Pos, f.End())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, from := range places {
		rd := newReader(t, dev)
		next, err := l.Frames(from, rd.visit)
		if err != nil {
			t.Fatalf("from %#x: %v", from, err)
		}
		if _, last, ok := rd.span(); ok && last != n-1 {
			t.Errorf("from %#x: requests to %d, want %d", from, last, n-1)
		}
		if next != l.Stats().Barrier.Pos {
			t.Errorf("from %#x: next is %#x, want %#x", from, next, l.Stats().Barrier.Pos)
		}
	}
	if _, err := l.Frames(l.TailBefore(1<<60)+SectorBytes, nil); err != nil {
		t.Errorf("from beyond the last barrier: %v", err)
	}
	if _, err := l.Frames(SectorBytes+LineBytes, func(*Frame) error { return nil }); err == nil {
		t.Error("a place where no frame begins was accepted")
	}
}

// BenchmarkScan recovers a full log of 4 KiB requests after the process has died, as a
// server does before it is ready. JNBD_BENCH_LOG_GIB sets the size; default 1.
func BenchmarkScan(b *testing.B) {
	size := int64(1) << 30
	if s := os.Getenv("JNBD_BENCH_LOG_GIB"); s != "" {
		var n int64
		if _, err := fmt.Sscan(s, &n); err != nil {
			b.Fatal(err)
		}
		size = n << 30
	}
	f, err := disk.OpenFile(filepath.Join(b.TempDir(), "log"), disk.FileOptions{Create: true, Size: size})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, err := Scan(f, ScanOptions{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	l, err := Continue(f, r, Options{})
	if err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 4096)
	pos := make([]int64, 1)
	for n := uint64(0); ; n++ {
		if err := l.Append([]Record{{Kind: 1, A: n, Payload: page}}, pos); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	var frames int
	for b.Loop() {
		began := time.Now()
		r, err := Scan(f, ScanOptions{}, func(*Frame) error { frames++; return nil })
		if err != nil {
			b.Fatal(err)
		}
		scanned := time.Since(began)
		l, err := Continue(f, r, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.Frames), "frames")
		b.ReportMetric(float64(r.BytesRead)/1e6, "MB-read")
		b.ReportMetric(float64(scanned.Milliseconds()), "ms-scan")
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-ready")
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
