package workload

import (
	"math/rand/v2"

	"jnbd/powercut"
)

// Lane is one thread of the raw writer, and the requests it makes by seed. Lanes write all
// over one range, and over each other; the last lane has a range of its own, where it trims
// too, because the judge must tell its zeros apart.
type Lane struct {
	random *rand.Rand
	off, n int64 // its range, bytes
	trims  bool
}

// rawMost is the largest request, in bytes. The kernel's NBD client cuts larger ones in two.
const rawMost = 128 << 10

// Lanes are the lanes of a disk of diskBytes.
func Lanes(seed uint64, count int, diskBytes int64) (lanes []*Lane) {
	shared := diskBytes / 4 * 3 / rawMost * rawMost
	for i := range count {
		l := &Lane{random: rand.New(rand.NewPCG(seed, uint64(i))), n: shared}
		if i == count-1 {
			l.off, l.n, l.trims = shared, (diskBytes-shared)/rawMost*rawMost, true
		}
		lanes = append(lanes, l)
	}
	return lanes
}

// Next is the lane's next request: whole sectors, most of them small, some as large as they
// get.
func (l *Lane) Next() powercut.Request {
	r := l.random
	if r.IntN(8) == 0 {
		return powercut.Request{Kind: powercut.Flush}
	}
	n := int64(powercut.SectorBytes) << r.IntN(8)
	if r.IntN(6) == 0 {
		n = rawMost / 4 * (3 + r.Int64N(2))
	}
	q := powercut.Request{Off: r.Int64N((l.n-n)/powercut.SectorBytes+1) * powercut.SectorBytes, N: n, FUA: r.IntN(10) == 0}
	if r.IntN(2) == 0 || n > rawMost/2 {
		q.Off = q.Off / 4096 * 4096
	}
	q.Off += l.off
	if l.trims && r.IntN(5) == 0 {
		q.Kind, q.FUA = powercut.Trim, false
	}
	return q
}
