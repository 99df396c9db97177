package ordered

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/disk"
)

const tebibyte = int64(1) << 40 / BlockBytes // in blocks

// bytesPerRun is the memory limit of DESIGN, for each displaced run.
const bytesPerRun = 48

// heap is the memory in use after a full collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryPerRun: runs of one block, which never merge, entered in the orders that fill a
// tree best and worst, and after a time of overwriting.
func TestMemoryPerRun(t *testing.T) {
	const runs = 200_000
	tests := []struct {
		name string
		fill func(d *displaced)
	}{
		{"ascending", func(d *displaced) {
			for i := range int64(runs) {
				d.put(mapped{block: 2 * i, n: 1, slot: i})
			}
		}},
		{"descending", func(d *displaced) {
			for i := int64(runs); i > 0; i-- {
				d.put(mapped{block: 2 * i, n: 1, slot: i})
			}
		}},
		{"random", func(d *displaced) {
			for i, block := range rand.New(rand.NewPCG(1, 1)).Perm(runs) {
				d.put(mapped{block: 2 * int64(block), n: 1, slot: int64(i)})
			}
		}},
		{"loaded", func(d *displaced) {
			for i := range int64(runs) {
				d.tree.Load(2*i, pack(1, i))
				d.blocks++
			}
		}},
		{"overwritten", func(d *displaced) {
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range int64(3 * runs) {
				block := 2 * rnd.Int64N(runs)
				d.take(block, block+1, func(mapped) {})
				d.put(mapped{block: block, n: 1, slot: i})
			}
		}},
		{"half trimmed", func(d *displaced) {
			for i := range int64(2 * runs) {
				d.put(mapped{block: 2 * i, n: 1, slot: i})
			}
			for i := int64(0); i < 2*runs; i += 2 {
				d.take(2*i, 2*i+1, func(mapped) {})
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := heap()
			d := &displaced{}
			test.fill(d)
			per := float64(heap()-before) / float64(d.tree.Len())
			t.Logf("%d runs, %.1f bytes each", d.tree.Len(), per)
			if per > bytesPerRun {
				t.Errorf("%.1f bytes a run, want at most %d", per, bytesPerRun)
			}
			if d.tree.Len() < runs/2 {
				t.Errorf("only %d runs: they were to stay apart", d.tree.Len())
			}
		})
	}
}

// TestMemoryOfBits: without runs, a state takes a bit for each block, two for each slot, and
// small change.
func TestMemoryOfBits(t *testing.T) {
	before := heap()
	s := live(t, Layout{Blocks: tebibyte, Slots: tebibyte})
	got := heap() - before
	want := 3*tebibyte/8 + tebibyte/wordsPerPage*8 + 1<<20
	if got > want {
		t.Errorf("%d bytes, want at most %d", got, want)
	}
	runtime.KeepAlive(s)
}

// TestDropTebibyte: trimming a whole disk of 1 TiB takes less than 100 ms, whatever is there
// (issue 3, point 5). It is a third of that; a machine that is busy or stolen from gets up to ten
// tries.
func TestDropTebibyte(t *testing.T) {
	const limit = 100 * time.Millisecond
	tests := []struct {
		name string
		fill func(s *State)
	}{
		{"all absent", func(*State) {}},
		{"all present", func(s *State) { s.SetPresent(0, tebibyte) }},
		{"every other block present", func(s *State) {
			for i := range s.present {
				s.present[i] = 0x5555555555555555
			}
			s.presentCount = tebibyte / 2
		}},
		{"a million runs", func(s *State) {
			s.SetPresent(0, tebibyte)
			for i := range int64(1_000_000) {
				s.Map(i*200, 1, 2*i, 1)
			}
		}},
	}
	tries := 10
	if raceEnabled {
		tries = 1
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			best := time.Hour
			for try := 0; try < tries && best > limit; try++ {
				s := New(Layout{Blocks: tebibyte, Slots: 1 << 22})
				test.fill(s)
				finish(t, s)
				began, used := time.Now(), cpuTime(t)
				s.Drop(0, tebibyte, 2)
				best = min(best, time.Since(began), cpuTime(t)-used) // others may have the machine
				if st := s.Stats(); st.Present != 0 || st.Displaced != 0 {
					t.Fatalf("%+v after the drop of everything", st)
				}
				release(s, 3)
				if st := s.Stats(); st.SpareFree != 1<<22 {
					t.Fatalf("%+v after the release of everything", st)
				}
			}
			t.Logf("%v", best)
			if best > limit && !raceEnabled {
				t.Errorf("%v, want less than %v", best, limit)
			}
		})
	}
}

// TestLoadTebibyte: what is stored of a disk of 1 TiB, half of it present and a million runs
// displaced, is there well within the second that recovery may take (P6).
func TestLoadTebibyte(t *testing.T) {
	const limit = 700 * time.Millisecond
	runs := int64(1_000_000)
	if raceEnabled {
		runs /= 10
	}
	l := Layout{Blocks: tebibyte, Slots: tebibyte / 10}
	dev := disk.NewMem(StateBytes(l))
	s := New(l)
	s.SetPresent(0, tebibyte/2)
	for i, at := range rand.New(rand.NewPCG(1, 1)).Perm(int(runs)) {
		s.Map(int64(at)*100, 1, int64(i), 1)
	}
	finish(t, s)
	began := time.Now()
	save(t, s, dev, 1)
	saved := time.Since(began)
	best := time.Hour
	for try := 0; try < 10 && best > limit; try++ {
		began, used := time.Now(), cpuTime(t)
		again := load(t, dev, l, 1)
		best = min(best, time.Since(began), cpuTime(t)-used) // others may have the machine
		if got, want := again.Stats(), s.Stats(); got.Present != want.Present || got.Displaced != runs || got.Runs != want.Runs {
			t.Fatalf("loaded %+v, want %+v", got, want)
		}
	}
	t.Logf("save of everything %v, load and finish %v", saved, best)
	if best > limit && !raceEnabled {
		t.Errorf("load took %v, want less than %v", best, limit)
	}
}

// cpuTime is what this process has used so far.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkLookup is what every read of a displaced disk pays.
func BenchmarkLookup(b *testing.B) {
	s := New(Layout{Blocks: tebibyte, Slots: 1 << 22})
	s.SetPresent(0, tebibyte)
	for i := range int64(1_000_000) {
		s.Map(i*200, 1, 2*i, 1)
	}
	finish(b, s)
	rnd := rand.New(rand.NewPCG(1, 1))
	var pieces []Piece
	for b.Loop() {
		pieces = s.Lookup(pieces[:0], rnd.Int64N(200_000_000), 1)
	}
}

// BenchmarkWrite is a direct write of 1 MiB, from Reserve to Release.
func BenchmarkWrite(b *testing.B) {
	s := live(b, Layout{Blocks: tebibyte, Slots: tebibyte / 10})
	rnd := rand.New(rand.NewPCG(1, 1))
	pos := int64(0)
	for b.Loop() {
		pos++
		write(b, s, rnd.Int64N(10_000)*256, 256, pos)
		if pos%64 == 0 {
			release(s, pos)
		}
	}
}
