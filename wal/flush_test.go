package wal

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"jnbd/disk"
)

// gate is a device whose flushes wait to be let through, and may fail.
type gate struct {
	disk.Device
	entered chan struct{} // a flush has begun
	pass    chan error    // what it is to return
	flushes atomic.Int32
}

func newGate(size int64) *gate {
	return &gate{Device: disk.NewMem(size), entered: make(chan struct{}), pass: make(chan error)}
}

func (g *gate) Flush() error {
	if g.flushes.Add(1) == 1 {
		return nil // Continue's own
	}
	g.entered <- struct{}{}
	return <-g.pass
}

// TestGroupCommit: while one flush is on its way, all who arrive share the next, and none
// of them is answered by the one that doesn't cover it. Appends go on meanwhile, in new
// sectors.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(MinLogBytes)
		l, _ := open(t, g, ScanOptions{}, Options{}, nil)
		if p := flush(t, l); p.Pos != l.Stats().Head {
			t.Errorf("flush of nothing new: %+v", p)
		}
		var wg sync.WaitGroup
		ask := func(want uint64) {
			wg.Go(func() { // ends when its flush is let through
				if p, err := l.Flush(); err != nil || p.Seq < want {
					t.Errorf("flush: %+v, %v; want a barrier at or after seq %d", p, err, want)
				}
			})
		}
		appendOne(t, l, numbered(0, 100))
		ask(l.Stats().NextSeq)
		<-g.entered
		head, barrier := l.Stats().Head, l.Stats().NextSeq-1
		// Nothing was appended since the barrier: the first flush answers this one too.
		wg.Go(func() {
			if p, err := l.Flush(); err != nil || p.Seq != barrier || p.Pos != head {
				t.Errorf("flush: %+v, %v; want the barrier %d at head %#x", p, err, barrier, head)
			}
		})
		synctest.Wait()
		for n := range uint64(50) {
			pos := appendOne(t, l, numbered(1+n, 100))
			if n == 0 && frameOf(pos) != alignUp(head, SectorBytes) {
				t.Errorf("frame at %#x after a flush began at head %#x", frameOf(pos), head)
			}
			ask(l.Stats().NextSeq)
		}
		synctest.Wait() // all of them wait for something
		if d, n := l.Stats().DurableUpTo, g.flushes.Load(); d >= head || n != 2 {
			t.Errorf("before any flush has returned: durable up to %#x, %d flushes", d, n)
		}
		g.pass <- nil
		<-g.entered
		synctest.Wait()
		if d, n := l.Stats().DurableUpTo, g.flushes.Load(); d != head || n != 3 {
			t.Errorf("after the first flush: durable up to %#x, want %#x; %d flushes", d, head, n)
		}
		g.pass <- nil
		wg.Wait()
		if s, n := l.Stats(), g.flushes.Load(); s.DurableUpTo != s.Head || s.Barrier.Pos != s.Head || n != 3 {
			t.Errorf("in the end: %+v, %d flushes", s, n)
		}
	})
}

// TestForeseenFlush: behind an append that ends with a barrier a flush writes nothing, also while
// the next append is on its way, and a scan finds the barrier.
func TestForeseenFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(MinLogBytes)
		l, _ := open(t, g, ScanOptions{}, Options{}, nil)
		if err := l.AppendBarrier(numbered(0, 100), make([]int64, 1)); err != nil {
			t.Fatal(err)
		}
		foreseen := l.Stats()
		var p Point
		var wg sync.WaitGroup
		wg.Go(func() { p = flush(t, l) })
		<-g.entered
		pos := appendOne(t, l, numbered(1, 100))
		if frameOf(pos) != alignUp(foreseen.Head, SectorBytes) {
			t.Errorf("frame at %#x after a flush began at head %#x", frameOf(pos), foreseen.Head)
		}
		g.pass <- nil
		wg.Wait()
		if s := l.Stats(); s.Frames != foreseen.Frames+1 || p.Pos != foreseen.Head || s.Barrier != p || s.DurableUpTo != p.Pos {
			t.Errorf("flushed up to %+v, foreseen %+v, now %+v", p, foreseen, s)
		}
		r, err := Scan(g, ScanOptions{Cut: CutBarrier}, nil)
		if err != nil || r.End != p.Pos {
			t.Errorf("cut at the last barrier: %+v, %v; want the end at %#x", r, err, p.Pos)
		}
	})
}

// TestFlushNeedsLaterBarrier: a barrier that stands before the last append does not answer a flush
// of that append.
func TestFlushNeedsLaterBarrier(t *testing.T) {
	l, _ := fresh(t, MinLogBytes, Options{})
	if err := l.AppendBarrier(numbered(0, 100), make([]int64, 1)); err != nil {
		t.Fatal(err)
	}
	appendOne(t, l, numbered(1, 100))
	before := l.Stats()
	if p, s := flush(t, l), l.Stats(); s.Frames != before.Frames+1 || p.Pos <= before.Head || s.DurableUpTo != p.Pos {
		t.Errorf("flushed up to %+v: before %+v, now %+v", p, before, s)
	}
}

// TestBesideBehindTheBarrier: bytes beside the log whose record stands behind the barrier that a flush
// took are not covered by it, and count towards the next soft flush.
func TestBesideBehindTheBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newGate(MinLogBytes)
		l, _ := open(t, dev, ScanOptions{}, Options{SoftFlushBeside: 2 << 20}, nil)
		beside := func(i uint64) []Record {
			recs := numbered(i, 100)
			recs[0].Beside = 1 << 20
			return recs
		}
		if err := l.AppendBarrier(beside(0), make([]int64, 1)); err != nil {
			t.Fatal(err)
		}
		go l.Flush() // ends when the gate lets it
		<-dev.entered
		if err := l.Append(beside(1), make([]int64, 1)); err != nil {
			t.Fatal(err)
		}
		dev.pass <- nil
		synctest.Wait()
		if s := l.Stats(); s.SoftFlushes != 0 {
			t.Fatalf("flushed by itself after 1 MiB: %+v", s)
		}
		if err := l.Append(beside(2), make([]int64, 1)); err != nil {
			t.Fatal(err)
		}
		<-dev.entered
		dev.pass <- nil
		synctest.Wait()
		if s := l.Stats(); s.SoftFlushes != 1 || s.DurableUpTo != s.Barrier.Pos || s.Barrier.Pos != s.Head {
			t.Errorf("after 2 MiB behind the barrier: %+v", s)
		}
	})
}

// TestFlushHabit: who flushes after each append has barriers in its appends from then on, until
// it leaves the habit.
func TestFlushHabit(t *testing.T) {
	l, _ := fresh(t, MinLogBytes, Options{})
	frames := func(appends int) uint64 {
		before := l.Stats().Frames
		for range appends {
			appendOne(t, l, numbered(0, 100))
		}
		p, s := flush(t, l), l.Stats()
		if p.Pos != s.Head || s.Barrier != p {
			t.Errorf("flushed up to %+v, now %+v", p, s)
		}
		return s.Frames - before
	}
	for range loneFlushes {
		if n := frames(1); n != 2 {
			t.Errorf("an append and its flush took %d frames, want 2", n)
		}
	}
	for range 3 {
		if n := frames(1); n != 1 {
			t.Errorf("by habit, an append and its flush took %d frames, want 1", n)
		}
	}
	if n := frames(2); n != 3 {
		t.Errorf("two appends and a flush took %d frames, want 3", n)
	}
	if n := frames(1); n != 2 {
		t.Errorf("out of the habit, an append and its flush took %d frames, want 2", n)
	}
}

// TestFailedFlush: everybody who waits gets the first failure, nothing is asked twice, and
// nothing durable advances, not even for what an earlier flush may have covered.
func TestFailedFlush(t *testing.T) {
	g := newGate(MinLogBytes)
	l, _ := open(t, g, ScanOptions{}, Options{}, nil)
	pos := appendOne(t, l, numbered(0, 100))
	before := l.Stats()
	changed := l.Changed()
	errs := make(chan error)
	ask := func() { // ends with its flush
		_, err := l.Flush()
		errs <- err
	}
	go ask()
	<-g.entered
	appendOne(t, l, numbered(1, 100))
	go ask()
	g.pass <- syscall.EIO
	first := <-errs
	second := <-errs
	if !errors.Is(first, syscall.EIO) || first != second || l.Err() != first {
		t.Errorf("failures: %v, %v, %v", first, second, l.Err())
	}
	<-changed
	if _, err := l.Flush(); err != first {
		t.Errorf("flush after that: %v", err)
	}
	if err := l.Append(numbered(2, 1), make([]int64, 1)); err != first {
		t.Errorf("append after that: %v", err)
	}
	if s := l.Stats(); s.DurableUpTo != before.DurableUpTo || s.Barrier != before.Barrier {
		t.Errorf("durable up to %#x, before the failure %#x", s.DurableUpTo, before.DurableUpTo)
	}
	if n := g.flushes.Load(); n != 2 {
		t.Errorf("%d flushes, want 2: a failed one is never repeated", n)
	}
	p := make([]byte, 100)
	if _, err := l.ReadAt(p, pos[0]); err != nil || string(p) != string(content(0, 0, 100)) {
		t.Errorf("reads go on after a failure: %v", err)
	}
}

// failingWrites is a device whose writes fail from a moment on.
type failingWrites struct {
	*gate
	broken atomic.Bool
}

func (f *failingWrites) WriteAt(p []byte, off int64) (int, error) {
	if f.broken.Load() {
		return 0, syscall.EIO
	}
	return f.gate.WriteAt(p, off)
}

// TestAppendFailsBesideFlush: a flush that returns well after an append has failed makes
// nothing durable any more (I9).
func TestAppendFailsBesideFlush(t *testing.T) {
	f := &failingWrites{gate: newGate(MinLogBytes)}
	l, _ := open(t, f, ScanOptions{}, Options{}, nil)
	appendOne(t, l, numbered(0, 100))
	before := l.Stats()
	errs := make(chan error)
	go func() { // ends with its flush
		_, err := l.Flush()
		errs <- err
	}()
	<-f.entered
	f.broken.Store(true)
	first := l.Append(numbered(1, 100), make([]int64, 1))
	if !errors.Is(first, syscall.EIO) {
		t.Errorf("append: %v", first)
	}
	f.pass <- nil
	if err := <-errs; err != first {
		t.Errorf("flush: got %v, want %v", err, first)
	}
	if s := l.Stats(); s.DurableUpTo != before.DurableUpTo || s.Barrier != before.Barrier {
		t.Errorf("durable up to %#x, before the failure %#x", s.DurableUpTo, before.DurableUpTo)
	}
}

// TestSoftFlush: the log flushes by itself after so many bytes, and says nothing when that
// fails until somebody asks.
func TestSoftFlush(t *testing.T) {
	g := newGate(MinLogBytes)
	l, _ := open(t, g, ScanOptions{}, Options{SoftFlushBytes: 32 << 10, SoftFlushBeside: 2 << 20}, nil)
	changed := l.Changed()
	appendOne(t, l, numbered(0, 16000))
	if n := g.flushes.Load(); n != 1 {
		t.Fatalf("%d flushes after 16 KB", n)
	}
	appendOne(t, l, numbered(1, 16000, 16000))
	<-g.entered
	covered := l.Stats().Head
	g.pass <- nil
	<-changed
	if s := l.Stats(); s.DurableUpTo != covered || s.SoftFlushes != 1 || s.Barrier.Pos != covered {
		t.Errorf("after a soft flush at %#x: %+v", covered, s)
	}
	changed = l.Changed()
	beside := numbered(2, 10)
	beside[0].Beside = 1 << 20
	appendOne(t, l, beside)
	if s := l.Stats(); s.SoftFlushes != 1 || g.flushes.Load() != 2 {
		t.Errorf("flushed after 1 MiB beside the log: %+v", s)
	}
	beside = numbered(3, 10)
	beside[0].Beside = 1 << 20
	appendOne(t, l, beside)
	<-g.entered
	covered = l.Stats().Head
	g.pass <- nil
	<-changed
	if s := l.Stats(); s.DurableUpTo != covered || s.SoftFlushes != 2 {
		t.Errorf("after a soft flush for 2 MiB beside the log: %+v, want all durable up to %#x", s, covered)
	}
	changed = l.Changed()
	appendOne(t, l, numbered(4, 16000, 16000, 16000))
	<-g.entered
	g.pass <- syscall.EIO
	<-changed
	if err := l.Append(numbered(5, 1), make([]int64, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("append after a failed soft flush: %v", err)
	}
}

// TestClose: Close waits for the flush that is going on, and nothing goes on after it.
func TestClose(t *testing.T) {
	g := newGate(MinLogBytes)
	l, _ := open(t, g, ScanOptions{}, Options{}, nil)
	appendOne(t, l, numbered(0, 100))
	flushed, closed := make(chan error), make(chan error)
	go func() { _, err := l.Flush(); flushed <- err }() // ends with its flush
	<-g.entered
	go func() { closed <- l.Close() }() // ends with Close
	<-l.closing
	select {
	case <-closed:
		t.Error("Close came back while a flush was going on")
	default:
	}
	g.pass <- nil
	if err := <-flushed; err != nil {
		t.Errorf("the flush that was going on: %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := l.Append(numbered(1, 1), make([]int64, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	if _, err := l.Flush(); !errors.Is(err, ErrClosed) {
		t.Errorf("flush after Close: %v", err)
	}
}

// TestConcurrent lets appends, flushes, frees, reads and readers of the stream run against
// each other.
func TestConcurrent(t *testing.T) {
	g := &guard{Device: disk.NewMem(4 * MinLogBytes), size: 4 * MinLogBytes}
	l, _ := open(t, g, ScanOptions{}, Options{SoftFlushBytes: 64 << 10}, nil)
	g.log = l
	const requests = 3000
	var wg sync.WaitGroup
	stop := make(chan struct{})
	background := func(f func() bool) { // ends with stop
		wg.Add(1)
		go func() {
			defer wg.Done()
			for f() {
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	room := make(chan struct{}, 1)
	free := func() {
		s := l.Stats()
		if err := l.Free(l.TailBefore(s.Tail + (s.Head-s.Tail)/2)); err != nil {
			t.Error(err)
		}
		select {
		case room <- struct{}{}:
		default:
		}
	}
	for range 3 {
		background(func() bool {
			if _, err := l.Flush(); err != nil {
				t.Error(err)
			}
			return true
		})
	}
	background(func() bool { free(); return true })
	pin, err := l.Pin(l.Stats().Tail)
	if err != nil {
		t.Fatal(err)
	}
	rd := newReader(t, g)
	at := l.Stats().Tail
	follow := func() bool {
		next, err := l.Frames(at, rd.visit)
		if err != nil {
			t.Error(err)
			return false
		}
		at = next
		pin.Move(at)
		return true
	}
	background(follow)
	for n := uint64(0); n < requests; n++ {
		recs := numbered(n, 100, int(n%5000))
		pos := make([]int64, len(recs))
		for {
			err := l.Append(recs, pos)
			if errors.Is(err, ErrFull) {
				<-room
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		p := make([]byte, 100)
		if _, err := l.ReadAt(p, pos[0]); err == nil && string(p) != string(recs[0].Payload) {
			t.Fatalf("request %d reads back wrong", n)
		} else if err != nil && !errors.Is(err, ErrFreed) {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	flush(t, l)
	if !follow() || len(rd.reqs) != requests {
		t.Errorf("the stream showed %d requests, want %d", len(rd.reqs), requests)
	}
	pin.Release()
	if g.wrong != nil {
		t.Error(g.wrong)
	}
}
