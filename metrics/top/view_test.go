package top

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"jnbd/metrics"
)

var update = flag.Bool("update", false, "write the golden files anew")

// histogram has n durations of about a millisecond and one of 40.
func histogram(n uint64) metrics.Histogram {
	return metrics.Histogram{Count: n + 1, SumSeconds: float64(n) * 0.001, Buckets: []metrics.Bucket{{BoundSeconds: 0.001024, N: n}, {BoundSeconds: 0.04, N: 1}}}
}

// fixed are two states of a busy disk, ten seconds apart.
func fixed() (earlier, now *metrics.State) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	earlier = &metrics.State{Time: start.Add(time.Hour), Started: start, PID: 7, Disks: []metrics.Disk{{
		Export:   "d.img",
		Bytes:    metrics.Bytes{ClientRead: 1 << 30, ClientWritten: 2 << 30, Log: 2 << 30, Home: 1 << 30},
		Commands: []metrics.Command{{Name: "read", Histogram: histogram(1000)}, {Name: "write", Histogram: histogram(1000)}, {Name: "trim"}},
	}}}
	barrier := start.Add(time.Hour + 8*time.Second)
	now = &metrics.State{Time: start.Add(time.Hour + 10*time.Second), Started: start, PID: 7, Disks: []metrics.Disk{{
		Export: "d.img", Mode: "auto", SizeBytes: 10 << 30, Connections: 2,
		Log: metrics.Log{
			// 256 MiB, of which 160 are live: they come in again at the left.
			SizeBytes: 256 << 20, UsedBytes: 160 << 20, Tail: (10*256 + 140) << 20, Head: (11*256 + 44) << 20,
			MovingTo: (10*256 + 170) << 20, DurableUpTo: (11*256 + 30) << 20,
			Barriers:   []int64{(10*256 + 190) << 20, (10*256 + 240) << 20, (11*256 + 30) << 20},
			BarrierSeq: 4182, BarrierTime: &barrier, NotHomeBytes: 150 << 20, LagSeconds: 3.25,
		},
		Spare:    metrics.Spare{SizeBytes: 2 << 30, UsedBytes: 512 << 20, DisplacedBytes: 500 << 20},
		Bytes:    metrics.Bytes{ClientRead: 1<<30 + 50<<20, ClientWritten: 3 << 30, Log: 2<<30 + 512<<20, Home: 1 << 30, Spare: 600 << 20, Amplification: 1.2},
		Commands: []metrics.Command{{Name: "read", Histogram: histogram(13800)}, {Name: "write", Histogram: histogram(2500)}, {Name: "trim"}},
		Flush:    histogram(20),
	}}}
	return earlier, now
}

func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the picture is\n%s\nwant\n%s", got, want)
	}
}

// TestGolden holds the picture of fixed states against those in testdata, which were looked at.
func TestGolden(t *testing.T) {
	earlier, now := fixed()
	h := &History{}
	for _, written := range []float64{0, 10, 20, 40, 80, 100, 100, 60, 30} {
		h.Add(&Rates{Read: 100 - written, Written: written, Host: 2 * written})
	}
	golden(t, "busy.txt", (&View{Now: now, Earlier: earlier, Export: "d.img", History: h, Width: 100}).Lines())
	golden(t, "busy80.txt", (&View{Now: now, Earlier: earlier, Export: "d.img", History: h, Width: 80}).Lines())
	golden(t, "busy.ansi", (&View{Now: now, Earlier: earlier, Export: "d.img", History: h, Width: 100, Color: true}).Lines())

	idle := &metrics.State{Time: now.Time, Started: now.Started, Disks: []metrics.Disk{{
		Export: "d.img", Mode: "data", SizeBytes: 1 << 20, ReadOnly: true,
		Log:      metrics.Log{SizeBytes: 64 << 20},
		Poisoned: "flush the log: fdatasync d.img.jnbd: input/output error, and a long story about it that goes on beyond the right edge of what there is",
	}}}
	golden(t, "poisoned.txt", (&View{Now: idle, Export: "d.img", Width: 80}).Lines())
	golden(t, "gone.txt", (&View{Now: idle, Export: "other", Width: 80}).Lines())
}

// Whatever the width, no line is wider, and none is broken at the least.
func TestWidth(t *testing.T) {
	earlier, now := fixed()
	for width := range 200 {
		for _, line := range (&View{Now: now, Earlier: earlier, Export: "d.img", Width: width}).Lines() {
			if n := utf8.RuneCountInString(line); n > max(width, 80) {
				t.Errorf("width %d: a line of %d: %s", width, n, line)
			}
		}
	}
}

// Every byte of the ring is drawn, however it lies.
func TestRing(t *testing.T) {
	const size = 1000
	for _, tt := range []struct {
		name  string
		log   metrics.Log
		strip string
		marks string
	}{
		{"empty", metrics.Log{Tail: 500, Head: 500, DurableUpTo: 500}, "··········", "     ‡    "},
		{"full", metrics.Log{Tail: 300, Head: 1300, DurableUpTo: 1300}, "▒▒▒▒▒▒▒▒▒▒", "   ‡      "},
		{"a byte that is not durable", metrics.Log{Tail: 0, Head: 401, DurableUpTo: 400}, "▒▒▒▒█·····", "T   H     "},
		{"over the end", metrics.Log{Tail: 800, Head: 1250, MovingTo: 1000, DurableUpTo: 1150, Barriers: []int64{900, 1150}}, "▒██·····░░", " ╵H     T "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.log.SizeBytes = size
			r := newRing(&tt.log, 10)
			if r.String() != tt.strip || r.marks() != tt.marks {
				t.Errorf("ring %q marks %q, want %q and %q", r.String(), r.marks(), tt.strip, tt.marks)
			}
		})
	}
}

// Rates are those between the two states; after a restart, those since the start.
func TestBetween(t *testing.T) {
	earlier, now := fixed()
	r := Between(earlier, now, "d.img")
	if r.Took != 10*time.Second || r.Read != 5<<20 || r.Written != 102.4*(1<<20) {
		t.Errorf("rates %+v", r)
	}
	if want := (512. + 600) / 1024; r.Amplification != want {
		t.Errorf("amplification %v, want %v", r.Amplification, want)
	}
	if len(r.Commands) != 2 || r.Commands[0].Name != "read" || r.Commands[0].PerSecond != 1280 {
		t.Errorf("commands %+v", r.Commands)
	}
	now.PID++
	if r := Between(earlier, now, "d.img"); r.Took != time.Hour+10*time.Second {
		t.Errorf("after a restart the rates are over %s", r.Took)
	}
}
