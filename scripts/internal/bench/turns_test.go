package main

import (
	"slices"
	"testing"
	"time"
)

// What all turns did adds up, without the time of the others' turns between them.
func TestTurnsAddUp(t *testing.T) {
	const turns, length = 4, 20 * time.Millisecond
	l := randomWrites{bytes: 4096, depth: 8, conns: 2}
	var players [2]*clients
	for i := range players {
		var sources []source
		for seed := range l.conns {
			sources = append(sources, l.source(1<<30, 1<<40, time.Hour, uint64(seed)))
		}
		var err error
		if players[i], err = (&clients{length: length, left: turns * length}).connect(null(t), l.depth, sources); err != nil {
			t.Fatal(err)
		}
	}
	began, asked := time.Now(), 0
	for over := false; !over; asked++ {
		for _, p := range players {
			one, err := p.turn()
			if err != nil {
				t.Fatal(err)
			}
			over = over || one
		}
	}
	all := time.Since(began)
	var took time.Duration
	for _, p := range players {
		r, err := p.end()
		if err != nil {
			t.Fatal(err)
		}
		took += r.took
		if asked > turns || r.took < length {
			t.Errorf("%d turns took %v", asked, r.took)
		}
		if want := float64(p.sums[0].writes.total); r.requests != want || r.bytes != want*4096 || want == 0 {
			t.Errorf("%v requests of %v bytes, want %v of 4096", r.requests, r.bytes, want)
		}
	}
	if took > all {
		t.Errorf("turns of two took %v of %v: one counts the other's", took, all)
	}
}

// A load that knows its end is over with it: a whole disk is one turn.
func TestWholeDiskIsOneTurn(t *testing.T) {
	l := wholeDisk{bytes: 1 << 20, depth: 8, flushEach: 4}
	p, err := (&clients{}).connect(null(t), l.depth, []source{l.source(16 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	over, err := p.turn()
	if err != nil || !over {
		t.Errorf("over %v, %v", over, err)
	}
	if flushes := p.sums[0].flushes; flushes != 4 {
		t.Errorf("%v flushes, want 4", flushes)
	}
	if r, err := p.end(); err != nil || r.bytes != 16<<20 {
		t.Errorf("%v bytes, %v", r.bytes, err)
	}
}

// Who takes turns, and who is alone.
func TestInTurns(t *testing.T) {
	divided := pass{name: steady, load: randomWrites{}}
	servers := []server{jnbdLasting, jnbdLasting + otherOne, jnbdAuto, jnbdAuto + otherOne, nbdkitFile}
	for name, c := range map[string]struct {
		race  race
		turns []server
	}{
		"divisible":     {race{passes: []pass{divided}}, []server{jnbdLasting, jnbdLasting + otherOne, nbdkitFile}},
		"slow disk":     {race{passes: []pass{divided}, slow: true}, nil},
		"cold":          {race{passes: []pass{{name: steady, load: randomWrites{}, cold: true}}}, nil},
		"one of fio":    {race{passes: []pass{divided, {name: "fio", load: timed()}}}, nil},
		"a preparation": {race{passes: []pass{{load: writeShare{}}, divided}}, nil},
	} {
		c.race.servers, c.race.alone = servers, []server{jnbdAuto}
		turns, alone := c.race.inTurns()
		if !slices.Equal(turns, c.turns) || len(turns)+len(alone) != len(servers) {
			t.Errorf("%s: %v take turns, %v are alone; want %v", name, turns, alone, c.turns)
		}
	}
}

func TestRotated(t *testing.T) {
	servers := []server{"a", "b", "c"}
	for round, want := range [][]server{{"a", "b", "c"}, {"b", "c", "a"}, {"c", "a", "b"}, {"a", "b", "c"}} {
		if got := rotated(servers, round); !slices.Equal(got, want) {
			t.Errorf("round %d: %v, want %v", round, got, want)
		}
	}
	if got := rotated(nil, 3); len(got) != 0 {
		t.Errorf("nobody: %v", got)
	}
}
