package journal

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// The model of the crash tests: clients that each own a region of the disk and send a stream
// of requests there, and the question that decides P2 to P4 after a crash: is what the disk
// holds a prefix of the order, and long enough?
//
// Within a client's region the order is the client's own, so a region must read as one of
// the states after 0, 1, … of its changes. Between clients the order is known where a change
// was replied to before another was sent: then the second must not be there without the
// first. With one client this is the exact prefix check.

// modelBlock is the grain of the hashes; requests are at any byte.
const modelBlock = 512

type opKind uint8

const (
	opWrite opKind = iota
	opZero
	opTrim
	opFlush
)

// op is one request of a client. off is on the disk.
type op struct {
	kind   opKind
	off, n int64
	fill   uint64 // what is written, by seed
	fua    bool
	punch  bool

	// Stamps of one run: when it was sent and answered, on a clock that all clients share;
	// 0 is never.
	sent, replied int64
}

func (o *op) String() string {
	name := [...]string{"write", "zero", "trim", "flush"}[o.kind]
	if o.kind == opFlush {
		return name
	}
	if o.fua {
		name += "+fua"
	}
	return fmt.Sprintf("%s [%d,+%d)", name, o.off, o.n)
}

func (o *op) changes() bool { return o.kind != opFlush }

// data is what a write writes: every byte depends on place and seed, so that no two writes
// look alike and a torn one shows.
func (o *op) data() []byte {
	p := make([]byte, o.n)
	x := o.fill
	for i := range p {
		if i%8 == 0 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		p[i] = byte(x >> (8 * (i % 8)))
	}
	return p
}

// client is one stream of requests in a region of its own.
type client struct {
	off, size int64
	ops       []op
	// states[i] is the hash of the region after the first i changes; the region's start
	// content is zeros.
	states  []uint64
	changes []int // ops[changes[i]] is the i-th change
}

var modelSeed = maphash.MakeSeed()

// workload makes clients by seed, over a disk of size bytes, with requests up to most bytes.
func workload(seed uint64, clients int, size, least, most int64, requests int) []*client {
	rng := rand.New(rand.NewPCG(seed, 99))
	all := make([]*client, clients)
	share := size / int64(clients) / modelBlock * modelBlock
	for i := range all {
		c := &client{off: int64(i) * share, size: share}
		for range requests {
			c.ops = append(c.ops, randomOp(rng, c, least, most))
		}
		c.play()
		all[i] = c
	}
	return all
}

func randomOp(rng *rand.Rand, c *client, least, most int64) op {
	o := op{fill: rng.Uint64(), punch: rng.IntN(2) == 0}
	// Sizes from least to most, all magnitudes alike; half of them in whole blocks.
	n := int64(1) << rng.IntN(21)
	for n < least || n > most || n > c.size {
		n = int64(1) << rng.IntN(21)
	}
	n = min(n+rng.Int64N(n), most, c.size)
	o.off = rng.Int64N(c.size - n + 1)
	if rng.IntN(2) == 0 {
		o.off = o.off / modelBlock * modelBlock
		n = max(n/modelBlock*modelBlock, min(modelBlock, c.size-o.off))
	}
	o.off, o.n = o.off+c.off, n
	switch r := rng.IntN(20); {
	case r < 12:
		o.kind = opWrite
		o.fua = rng.IntN(8) == 0
	case r < 14:
		o.kind = opZero
	case r < 16:
		o.kind = opTrim
	default:
		o = op{kind: opFlush}
	}
	return o
}

// play computes the states.
func (c *client) play() {
	region := make([]byte, c.size)
	sums := make([]uint64, (c.size+modelBlock-1)/modelBlock)
	total := uint64(0)
	for b := range sums {
		sums[b] = blockHash(region, b)
		total ^= sums[b]
	}
	c.states = []uint64{total}
	for i := range c.ops {
		o := &c.ops[i]
		if !o.changes() {
			continue
		}
		o.apply(region, c.off)
		for b := int((o.off - c.off) / modelBlock); b <= int((o.off-c.off+o.n-1)/modelBlock); b++ {
			total ^= sums[b]
			sums[b] = blockHash(region, b)
			total ^= sums[b]
		}
		c.states = append(c.states, total)
		c.changes = append(c.changes, i)
	}
}

// apply performs a change on a region that begins at base.
func (o *op) apply(region []byte, base int64) {
	p := region[o.off-base : o.off-base+o.n]
	if o.kind == opWrite {
		copy(p, o.data())
		return
	}
	clear(p)
}

// blockHash is the hash of one block with its place.
func blockHash(region []byte, b int) uint64 {
	var h maphash.Hash
	h.SetSeed(modelSeed)
	h.WriteByte(byte(b))
	h.WriteByte(byte(b >> 8))
	h.WriteByte(byte(b >> 16))
	h.Write(region[b*modelBlock : min((b+1)*modelBlock, len(region))])
	return h.Sum64()
}

func regionHash(region []byte) uint64 {
	total := uint64(0)
	for b := range (len(region) + modelBlock - 1) / modelBlock {
		total ^= blockHash(region, b)
	}
	return total
}

// stamps is the clock that orders sends and replies.
type stamps struct{ now atomic.Int64 }

func (s *stamps) next() int64 { return s.now.Add(1) }

// atLeast says how many of c's changes must have survived. Power loss: those replied to
// before some answered flush (or FUA write) of any client was sent, and answered FUA writes
// themselves. Process death: all that were replied to.
func (c *client) atLeast(all []*client, powerLoss bool) int {
	flushed := int64(0) // when the last of the answered flushes was sent
	for _, other := range all {
		for j := range other.ops {
			f := &other.ops[j]
			if (f.kind == opFlush || f.fua) && f.replied != 0 {
				flushed = max(flushed, f.sent)
			}
		}
	}
	must := 0
	for i, at := range c.changes {
		o := &c.ops[at]
		if o.replied != 0 && (!powerLoss || o.fua || o.replied < flushed) {
			must = i + 1
		}
	}
	return must
}

// atMost says how many of c's changes were sent.
func (c *client) atMost() int {
	n := 0
	for _, at := range c.changes {
		if c.ops[at].sent != 0 {
			n++
		}
	}
	return n
}

// checkPrefix decides P2 to P4 for the content of a whole disk. It returns the prefix of each
// client, or what is wrong.
func checkPrefix(all []*client, disk []byte, powerLoss bool) ([]int, error) {
	candidates := make([][]int, len(all))
	for k, c := range all {
		lo, hi := c.atLeast(all, powerLoss), c.atMost()
		got := regionHash(disk[c.off : c.off+c.size])
		for i := lo; i <= hi; i++ {
			if c.states[i] == got {
				candidates[k] = append(candidates[k], i)
			}
		}
		if candidates[k] == nil {
			where := "no state at all: a request is torn, or out of order"
			if i := slices.Index(c.states, got); i >= 0 {
				where = fmt.Sprintf("the state after %d changes", i)
			}
			return nil, fmt.Errorf("client %d: region is %s, want a state after %d to %d changes (%s)", k, where, lo, hi, c.around(lo))
		}
	}
	// The least prefix of each, raised as long as another's prefix asks for more.
	at := make([]int, len(all))
	for k := range all {
		at[k] = candidates[k][0]
	}
	for raised := true; raised; {
		raised = false
		for k, c := range all {
			need := 0
			for j, other := range all {
				if j == k {
					continue
				}
				for _, i := range other.changes[:at[j]] {
					need = max(need, c.repliedBefore(other.ops[i].sent))
				}
			}
			if need <= at[k] {
				continue
			}
			next := slices.IndexFunc(candidates[k], func(i int) bool { return i >= need })
			if next < 0 {
				return nil, fmt.Errorf("client %d: %d changes are there, but another client's survived that was sent after %d were replied to", k, at[k], need)
			}
			at[k], raised = candidates[k][next], true
		}
	}
	return at, nil
}

// repliedBefore is how many of c's changes were replied to before stamp.
func (c *client) repliedBefore(stamp int64) int {
	n := 0
	for i, at := range c.changes {
		if r := c.ops[at].replied; r != 0 && r < stamp {
			n = i + 1
		}
	}
	return n
}

func (c *client) around(i int) string {
	if i < len(c.changes) {
		return "next: " + c.ops[c.changes[i]].String()
	}
	return "none left"
}

// reset forgets the stamps, for the next run of the same workload.
func reset(all []*client) {
	for _, c := range all {
		for i := range c.ops {
			c.ops[i].sent, c.ops[i].replied = 0, 0
		}
	}
}
