package powercut

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// paint makes the content of a disk: owners[s] is the number in sector s, 0 for zeros.
func paint(owners ...uint64) []byte {
	p := make([]byte, len(owners)*sectorBytes)
	for s, number := range owners {
		if number != 0 {
			numberSector(p[s*sectorBytes:(s+1)*sectorBytes], number, int64(s))
		}
	}
	return p
}

// req is a request over n sectors, with its stamps; replied 0 means that it never was.
func req(kind RequestKind, sector, n, sent, replied int64) Request {
	return Request{Kind: kind, Off: sector * sectorBytes, N: n * sectorBytes, Sent: sent, Replied: replied, Over: replied}
}

func fua(q Request) Request {
	q.FUA = true
	return q
}

func seen(q Request, at int64) Request {
	q.Seen = at
	return q
}

func over(q Request, at int64) Request {
	q.Over = at
	return q
}

const never = math.MaxInt64

func TestJudge(t *testing.T) {
	// Requests are numbered from 1 in the order of the list. The disk has 4 sectors.
	tests := []struct {
		name     string
		requests []Request
		owners   []uint64
		crash    crash
		want     string // part of the error; "" means legal
	}{
		{"nothing", nil, []uint64{0, 0, 0, 0}, crash{at: never}, ""},
		{"a write without a flush is lost", []Request{req(Write, 0, 2, 1, 2)}, []uint64{0, 0, 0, 0}, crash{at: never}, ""},
		{"or kept", []Request{req(Write, 0, 2, 1, 2)}, []uint64{1, 1, 0, 0}, crash{at: never}, ""},
		{"but not torn", []Request{req(Write, 0, 2, 1, 2)}, []uint64{1, 0, 0, 0}, crash{at: never}, "is there"},
		{"nor lost when only the process died", []Request{req(Write, 0, 2, 1, 2)}, []uint64{0, 0, 0, 0}, crash{at: never, processOnly: true}, "was promised"},
		{"nor sent after the crash", []Request{req(Write, 0, 2, 9, 10)}, []uint64{1, 1, 0, 0}, crash{at: 8}, "sent after the crash"},
		{"unless the crash may have been later", []Request{req(Write, 0, 2, 9, 10)}, []uint64{1, 1, 0, 0}, crash{at: 8, sentUnknown: true}, ""},
		{
			"then zeros may be from later as well",
			[]Request{fua(req(Write, 0, 2, 1, 2)), req(Zero, 0, 2, 9, 10)},
			[]uint64{0, 0, 0, 0},
			crash{at: 8, sentUnknown: true},
			"",
		},
		{"unless it had no answer then", []Request{req(Write, 0, 2, 1, 2)}, []uint64{0, 0, 0, 0}, crash{at: 2, processOnly: true}, ""},
		{
			"an answered flush keeps what was answered before it",
			[]Request{req(Write, 0, 1, 1, 2), req(Flush, 0, 0, 3, 4)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"was promised",
		},
		{
			"not what was under way with it",
			[]Request{req(Write, 0, 1, 1, 4), req(Flush, 0, 0, 2, 5)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"an unanswered flush keeps nothing",
			[]Request{req(Write, 0, 1, 1, 2), req(Flush, 0, 0, 3, 0)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"nor one that was answered after the cut",
			[]Request{req(Write, 0, 1, 1, 2), req(Flush, 0, 0, 3, 9)},
			[]uint64{0, 0, 0, 0},
			crash{at: 8},
			"",
		},
		{"FUA keeps itself", []Request{fua(req(Write, 0, 1, 1, 2))}, []uint64{0, 0, 0, 0}, crash{at: never}, "was promised"},
		{
			"FUA keeps what was answered before it on any connection",
			[]Request{req(Write, 0, 1, 1, 2), fua(req(Write, 1, 1, 3, 4))},
			[]uint64{0, 2, 0, 0},
			crash{at: never},
			"request 1",
		},
		{
			"what was read back is kept",
			[]Request{seen(req(Write, 0, 1, 1, 2), 5)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"was promised",
		},
		{
			"order: a later write can't be there without an earlier one",
			[]Request{req(Write, 0, 1, 1, 2), req(Write, 1, 1, 3, 4)},
			[]uint64{0, 2, 0, 0},
			crash{at: never},
			"was answered before another was sent that is there",
		},
		{
			"side by side it can",
			[]Request{req(Write, 0, 1, 1, 4), req(Write, 1, 1, 3, 4)},
			[]uint64{0, 2, 0, 0},
			crash{at: never},
			"",
		},
		{
			"an older version comes back over a newer one",
			[]Request{req(Write, 0, 1, 1, 2), req(Write, 0, 1, 3, 4), req(Flush, 0, 0, 5, 6)},
			[]uint64{1, 0, 0, 0},
			crash{at: never},
			"no order explains it",
		},
		{
			"two overlapping writes at once: either order",
			[]Request{req(Write, 0, 2, 1, 9), req(Write, 1, 2, 2, 9)},
			[]uint64{1, 1, 2, 0},
			crash{at: never},
			"",
		},
		{
			"but one order",
			[]Request{req(Write, 0, 4, 1, 9), req(Write, 1, 2, 2, 9)},
			[]uint64{1, 1, 2, 1},
			crash{at: never},
			"no order explains it",
		},
		{
			"three in a circle",
			[]Request{req(Write, 0, 2, 1, 9), req(Write, 1, 2, 2, 9), req(Write, 0, 3, 3, 9)},
			[]uint64{3, 1, 2, 0},
			crash{at: never},
			"no order explains it",
		},
		{
			"time closes the circle: 1 before 2, and 3 covers 2 and is covered by 1",
			[]Request{req(Write, 0, 2, 1, 3), fua(req(Write, 2, 1, 4, 9)), req(Write, 0, 3, 2, 8)},
			[]uint64{1, 1, 3, 0},
			crash{at: never},
			"no order explains it",
		},
		{
			"a request of a dead server is not there later",
			[]Request{over(req(Write, 0, 1, 1, 0), 5), req(Write, 0, 1, 6, 7)},
			[]uint64{1, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"and not over what came after the restart (a ghost)",
			[]Request{over(req(Write, 0, 1, 1, 0), 5), fua(req(Write, 0, 1, 6, 7))},
			[]uint64{1, 0, 0, 0},
			crash{at: never},
			"no order explains it",
		},
		{
			"without an answer it may come at any time while the server lives",
			[]Request{req(Write, 0, 1, 1, 0), fua(req(Write, 0, 1, 6, 7))},
			[]uint64{1, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"zeros of a trim that was promised",
			[]Request{req(Write, 0, 1, 1, 2), fua(req(Trim, 0, 1, 3, 4))},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"a trim that was promised is undone",
			[]Request{req(Write, 0, 1, 1, 2), fua(req(Trim, 0, 1, 3, 4))},
			[]uint64{1, 0, 0, 0},
			crash{at: never},
			"no order explains it",
		},
		{
			"zeros of a trim that nobody promised are allowed",
			[]Request{fua(req(Write, 0, 1, 1, 2)), req(Trim, 0, 1, 3, 4)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"",
		},
		{
			"but they bring along what came before the trim",
			[]Request{fua(req(Write, 0, 1, 1, 2)), req(Write, 1, 1, 3, 4), req(Trim, 0, 1, 5, 6)},
			[]uint64{0, 0, 0, 0},
			crash{at: never},
			"request 2",
		},
		{
			"a trim that is there in half",
			[]Request{fua(req(Write, 0, 2, 1, 2)), req(Trim, 0, 2, 3, 4)},
			[]uint64{0, 1, 0, 0},
			crash{at: never},
			"no order explains it",
		},
		{"a number of nobody", nil, []uint64{7, 0, 0, 0}, crash{at: never}, "only 0 were made"},
		{"a number in the wrong place", []Request{req(Write, 0, 1, 1, 2)}, []uint64{1, 1, 0, 0}, crash{at: never}, "which is a write of sectors 0 to 0"},
		{"a number from the future", []Request{req(Write, 0, 1, 5, 6)}, []uint64{1, 0, 0, 0}, crash{at: 4}, "after the crash"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			j, err := newJudge(test.requests, 4*sectorBytes)
			if err != nil {
				t.Fatal(err)
			}
			_, err = j.decide(paint(test.owners...), test.crash)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("judged %v, want %q", err, test.want)
			}
		})
	}
}

func TestJudgeRefusesAmbiguousZeros(t *testing.T) {
	_, err := newJudge([]Request{req(Write, 0, 2, 1, 4), req(Trim, 1, 1, 3, 5)}, 4*sectorBytes)
	if err == nil || !strings.Contains(err.Error(), "can't be told apart") {
		t.Errorf("judged %v", err)
	}
}

func TestJudgeFindsChangedBytes(t *testing.T) {
	j, err := newJudge([]Request{req(Write, 0, 2, 1, 2)}, 4*sectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 8, 16, 511, 512, 1023, 1024, 1600} {
		content := paint(1, 1, 0, 0)
		content[at] ^= 0x40
		if _, err := j.decide(content, crash{at: never}); err == nil {
			t.Errorf("byte %d was changed, and nobody noticed", at)
		}
	}
}

// The judge against brute force: all orders of a few requests, all their prefixes.
func TestJudgeAgainstAllOrders(t *testing.T) {
	const sectors, seeds = 4, 3000
	legal := 0
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 1))
		requests := randomHistory(random, sectors)
		owners := randomOutcome(random, requests, sectors)
		c := crash{at: 2 + 3*random.Int64N(24), processOnly: random.IntN(4) == 0}
		j, err := newJudge(requests, sectors*sectorBytes)
		if err != nil {
			continue // zeros that can't be told apart
		}
		want := someOrder(j, requests, owners, c)
		_, err = j.decide(paint(owners...), c)
		if (err == nil) != want {
			t.Fatalf("seed %d: judged %v, and an order exists: %v\n%s", seed, err, want, describe(requests, owners, c))
		}
		if want {
			legal++
		}
	}
	if legal < seeds/20 || legal > seeds*19/20 {
		t.Errorf("%d of %d outcomes are legal: the test says little", legal, seeds)
	}
}

func randomHistory(random *rand.Rand, sectors int64) []Request {
	requests := make([]Request, 1+random.IntN(5))
	for i := range requests {
		// As on one clock, no two stamps of different kinds are alike.
		sent := 3 * (1 + random.Int64N(16))
		q := req(Write, random.Int64N(sectors), 1, sent, sent+1+3*random.Int64N(6))
		q.N = (1 + random.Int64N(sectors-q.Off/sectorBytes)) * sectorBytes
		q.FUA = random.IntN(4) == 0
		switch random.IntN(8) {
		case 0:
			q.Kind = Trim
		case 1:
			q.Kind, q.Off, q.N, q.FUA = Flush, 0, 0, false
		case 2:
			q.Replied, q.Over = 0, 0
		case 3:
			q.Replied = 0
		case 4:
			q.Seen = q.Over + 2
		}
		requests[i] = q
	}
	return requests
}

// randomOutcome is what the disk reads as after some of the requests, in any order, with a
// mistake now and then.
func randomOutcome(random *rand.Rand, requests []Request, sectors int64) []uint64 {
	owners := make([]uint64, sectors)
	order := random.Perm(len(requests))
	if random.IntN(3) != 0 {
		slices.SortFunc(order, func(a, b int) int { return int(requests[a].Sent - requests[b].Sent) })
	}
	for _, i := range order[:random.IntN(len(order)+1)] {
		apply(owners, requests, i)
	}
	if random.IntN(6) == 0 {
		owners[random.Int64N(sectors)] = uint64(random.IntN(len(requests) + 1))
	}
	return owners
}

func apply(owners []uint64, requests []Request, i int) {
	from, to := requests[i].sectors()
	for s := from; s < to; s++ {
		owners[s] = uint64(i + 1)
		if requests[i].Kind != Write {
			owners[s] = 0
		}
	}
}

// someOrder tries every order that time allows, and every prefix of it.
func someOrder(j *judge, requests []Request, owners []uint64, c crash) bool {
	must := j.mustHave(c)
	taken := make([]bool, len(requests))
	var extend func(now []uint64) bool
	extend = func(now []uint64) bool {
		enough := true
		for i := range requests {
			if requests[i].changes() && !taken[i] && must(int32(i)) {
				enough = false
			}
		}
		if enough && slices.Equal(now, owners) {
			return true
		}
		for i := range requests {
			if taken[i] || !requests[i].changes() || requests[i].Sent > c.at || !mayFollow(requests, taken, i) {
				continue
			}
			next := slices.Clone(now)
			apply(next, requests, i)
			taken[i] = true
			if extend(next) {
				return true
			}
			taken[i] = false
		}
		return false
	}
	return extend(make([]uint64, len(owners)))
}

// mayFollow reports whether request i may come now: everything answered before it was sent
// is there, and nothing is there that was only sent when i was over.
func mayFollow(requests []Request, taken []bool, i int) bool {
	for k := range requests {
		if !requests[k].changes() {
			continue
		}
		if !taken[k] && requests[k].Replied != 0 && requests[k].Replied < requests[i].Sent {
			return false
		}
		if taken[k] && requests[i].Over != 0 && requests[i].Over < requests[k].Sent {
			return false
		}
	}
	return true
}

func describe(requests []Request, owners []uint64, c crash) string {
	text := fmt.Sprintf("owners %v, crash %+v", owners, c)
	for i := range requests {
		text += fmt.Sprintf("\n%d: %s %+v", i+1, &requests[i], requests[i])
	}
	return text
}
