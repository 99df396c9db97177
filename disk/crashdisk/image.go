package crashdisk

import (
	"iter"
	"math/rand/v2"
	"slices"
)

// The seeds that are not chance.
const (
	// SeedKill is the death of the process: nothing is lost, and what was unflushed still is.
	SeedKill int64 = 0
	// SeedLost is the power loss that takes every unflushed write.
	SeedLost int64 = 1
)

// Image is the machine after a crash and a reboot: a new group with disks of the same names,
// sizes and options, holding one of the contents that the fault model allows, chosen by seed.
// Its counters begin at 0, nothing is set to crash or to fail, and no hook is set. The group
// itself isn't changed, and need not have crashed: then the power goes in the copy only.
//
// Many images of one crash are cheap: they share all pages that nobody writes.
func (g *Group) Image(seed int64) *Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	after := NewGroup(g.seed + seed)
	after.flushFault = g.flushFault
	random := rand.New(rand.NewPCG(uint64(seed), uint64(g.seed)<<32+uint64(len(g.ops))))
	for _, d := range g.disks {
		after.disks = append(after.disks, d.afterCrashLocked(after, seed, random))
	}
	return after
}

// KillImage is the machine after the death of the process: Image(SeedKill).
func (g *Group) KillImage() *Group { return g.Image(SeedKill) }

// Images are the images of seeds 0 to n-1.
func (g *Group) Images(n int) iter.Seq2[int64, *Group] {
	return func(yield func(int64, *Group) bool) {
		for seed := range int64(n) {
			if !yield(seed, g.Image(seed)) {
				return
			}
		}
	}
}

func (d *Disk) afterCrashLocked(after *Group, seed int64, random *rand.Rand) *Disk {
	image := &Disk{group: after, name: d.name, size: d.size, uncached: d.uncached, medium: d.medium.clone()}
	switch seed {
	case SeedKill:
		image.live = d.live.clone()
		for _, c := range d.inFlight {
			c.apply(image.live)
		}
		image.unflushed = slices.Concat(d.unflushed, d.inFlight)
		image.effects = len(image.unflushed)
		return image
	case SeedLost:
	default:
		survive(image.medium, slices.Concat(d.unflushed, d.inFlight), random)
	}
	image.live = image.medium.clone()
	return image
}

// A fate is what becomes of one unflushed change in a power loss.
type fate int

const (
	lost fate = iota
	kept
	torn512
	torn4096
)

// survive puts on the medium what a power loss leaves of the changes, in some order.
func survive(medium *store, changes []*change, random *rand.Rand) {
	fates := drawFates(len(changes), random)
	order := make([]int, len(changes))
	for i := range order {
		order[i] = i
	}
	if random.IntN(2) == 0 {
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	coin := func() bool { return random.IntN(2) == 0 }
	for _, i := range order {
		switch c := changes[i]; fates[i] {
		case kept:
			c.apply(medium)
		case torn512:
			c.tear(medium, minSector, coin)
		case torn4096:
			c.tear(medium, bigSector, coin)
		}
	}
}

// drawFates gives n changes their fates. Drawing each alone would hardly ever leave all but
// one of many, which is what finds a missing flush; so there are some ways to draw.
func drawFates(n int, random *rand.Rand) []fate {
	fates := make([]fate, n)
	if n == 0 {
		return fates
	}
	some := func() fate { return fate(random.IntN(4)) }
	switch one := random.IntN(n); random.IntN(6) {
	case 0, 1: // each alone, all fates alike
		for i := range fates {
			fates[i] = some()
		}
	case 2: // most survive
		for i := range fates {
			if fates[i] = kept; random.IntN(8) == 0 {
				fates[i] = some()
			}
		}
	case 3: // all but one, or a part of it
		for i := range fates {
			fates[i] = kept
		}
		if fates[one] = some(); fates[one] == kept {
			fates[one] = lost
		}
	case 4: // only one, or a part of it
		if fates[one] = some(); fates[one] == lost {
			fates[one] = kept
		}
	case 5: // those up to one, and that one in part
		for i := range one {
			fates[i] = kept
		}
		fates[one] = some()
	}
	return fates
}
