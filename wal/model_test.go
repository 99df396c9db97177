package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"jnbd/disk"
)

// TestModel runs random appends, flushes, frees, pins and restarts over many laps of a
// small ring, against a list of what was appended. The process dies at restarts; the
// page cache survives.
func TestModel(t *testing.T) {
	for seed := range uint64(12 / (1 + thin)) {
		if !t.Run("", func(t *testing.T) { runModel(t, seed) }) {
			t.Logf("seed %d", seed)
		}
	}
}

func runModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	size := int64(MinLogBytes) << rnd.IntN(3)
	g := &guard{Device: disk.NewMem(size), size: size}
	opt := Options{SoftFlushBytes: size / int64(2+rnd.IntN(30))}
	var start Start
	l, _ := open(t, g, ScanOptions{}, opt, nil)
	g.log = l
	var next, flushed uint64 // next request; requests below flushed are durable
	var pins []*Pin
	laps := int64(0)
	for step := 0; laps < 12 && step < 20000; step++ {
		switch k := rnd.IntN(100); {
		case k < 70:
			recs := numbered(next, modelSizes(rnd, l.MaxRecordPayload())...)
			for range rnd.IntN(4) {
				next++
				recs = append(recs, numbered(next, modelSizes(rnd, l.MaxRecordPayload())...)...)
			}
			pos := make([]int64, len(recs))
			before := l.Stats()
			write := l.Append
			if rnd.IntN(3) == 0 {
				write = l.AppendBarrier
			}
			err := write(recs, pos)
			if errors.Is(err, ErrFull) {
				if after := l.Stats(); after.Head != before.Head && after.Appends != before.Appends {
					t.Fatalf("full, but head went from %#x to %#x", before.Head, after.Head)
				}
				next = recs[0].A
				modelFree(t, l, &start, &pins, rnd)
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			next++
			modelRead(t, l, recs, pos)
		case k < 85:
			p := flush(t, l)
			flushed = next
			if s := l.Stats(); s.DurableUpTo < p.Pos || s.Barrier.Pos < p.Pos {
				t.Fatalf("flushed up to %#x, stats say %+v", p.Pos, s)
			}
		case k < 93:
			modelFree(t, l, &start, &pins, rnd)
		case k < 96:
			if p, err := l.Pin(l.Stats().Head); err != nil {
				t.Fatal(err)
			} else if pins = append(pins, p); len(pins) > 2 {
				pins[0].Release()
				pins = pins[1:]
			}
		default:
			closeLog(t, l)
			g.log = nil
			pins = nil
			rd := newReader(t, g)
			sopt := ScanOptions{Start: start, VerifyAll: rnd.IntN(2) == 0, Cut: Cut(rnd.IntN(2))}
			r, err := Scan(g, sopt, rd.visit)
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			if err := proveSkip(g, sopt, r); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			from, last, ok := rd.span()
			switch {
			case sopt.Cut == CutPrefix && ok && last+1 != next, ok && last+1 < flushed:
				t.Fatalf("kept requests %d to %d; %d were appended, %d flushed; %+v", from, last, next, flushed, r.Dropped)
			}
			if sopt.Cut == CutBarrier && ok {
				next = last + 1
			} else if sopt.Cut == CutBarrier {
				next = flushed
			}
			laps = r.End / size
			l, err = Continue(g, r, opt)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeLog(t, l) })
			g.log = l
		}
		if g.wrong != nil {
			t.Fatalf("seed %d step %d: %v", seed, step, g.wrong)
		}
	}
	if laps < 12 {
		t.Fatalf("only %d laps", laps)
	}
}

// proveSkip holds a scan that leaves proven segments out against one that gave full: behind the
// durable mark both show the same, and they end at the same place.
func proveSkip(dev disk.Device, opt ScanOptions, full *ScanResult) error {
	unproven := func(opt ScanOptions) (frames []int64, r *ScanResult, err error) {
		r, err = Scan(dev, opt, func(f *Frame) error {
			if f.Pos >= full.DurableUpTo {
				frames = append(frames, f.Pos)
			}
			return nil
		})
		return frames, r, err
	}
	want, _, err := unproven(opt)
	if err != nil {
		return err
	}
	opt.SkipProven = true
	got, r, err := unproven(opt)
	if err != nil {
		return fmt.Errorf("without proven segments: %w", err)
	}
	if !slices.Equal(got, want) || r.End != full.End || r.DurableUpTo != full.DurableUpTo {
		return fmt.Errorf("without proven segments a scan shows frames at %v, with them at %v; it ends at %d, durable up to %d, want %d and %d",
			got, want, r.End, r.DurableUpTo, full.End, full.DurableUpTo)
	}
	return nil
}

// modelSizes are the payload sizes of one request.
func modelSizes(rnd *rand.Rand, most int) []int {
	sizes := make([]int, 1+rnd.IntN(3))
	if rnd.IntN(20) == 0 {
		sizes = make([]int, 1+rnd.IntN(12))
	}
	for i := range sizes {
		switch rnd.IntN(4) {
		case 0:
			sizes[i] = rnd.IntN(64)
		case 1:
			sizes[i] = 4096
		case 2:
			sizes[i] = rnd.IntN(most + 1)
		}
	}
	return sizes
}

func modelRead(t *testing.T, l *Log, recs []Record, pos []int64) {
	t.Helper()
	for i := range recs {
		p := make([]byte, len(recs[i].Payload))
		if _, err := l.ReadAt(p, pos[i]); err != nil {
			t.Fatal(err)
		}
		if string(p) != string(recs[i].Payload) {
			t.Fatalf("record %d reads back wrong from %#x", i, pos[i])
		}
	}
}

// modelFree frees up to a random point, as a checkpointer does.
func modelFree(t *testing.T, l *Log, start *Start, pins *[]*Pin, rnd *rand.Rand) {
	t.Helper()
	if rnd.IntN(2) == 0 {
		flush(t, l)
	}
	s := l.Stats()
	tail := l.TailBefore(s.Tail + 1 + rnd.Int64N(s.Head-s.Tail+1))
	if rnd.IntN(3) == 0 {
		tail = l.TailBefore(s.Head)
	}
	var err error
	if *start, err = l.StartAt(tail); err != nil {
		t.Fatal(err)
	}
	if err := l.Free(tail); err != nil {
		t.Fatal(err)
	}
	for _, p := range *pins {
		if rnd.IntN(2) == 0 {
			p.Release()
		} else {
			p.Move(tail)
		}
	}
}
