package main

import (
	"fmt"
	"slices"
)

// workload is one thing that is measured, by itself.
type workload struct {
	name, about string
	run         func(*config, *workload) error
	race        race // what runRace does
}

// race is a load that several servers get in turns.
type race struct {
	servers []server
	image   imageKind
	slow    bool // the disk is: fuse.go
	// alone are servers that go on working behind when it is not their turn, on the same processors
	// and the same medium: they bring home what is in their log.
	alone  []server
	passes []pass
	wants  []want
}

// pass is one run of the client. All passes of a round meet the same server, one after the
// other; those without a name only prepare the next.
type pass struct {
	name string
	load load
	// bulk: the figure that counts is bytes a second, else requests a second. Either way a
	// ratio of two servers is the same.
	bulk bool
	ours bool // only servers of ours get it
	cold bool // nothing of the disk is in the page cache when it begins
}

// want is a ratio that a pass must reach, median over the rounds.
type want struct {
	pass    string
	ours    server
	peers   []server // the best of them in each round; empty: all that are
	figure  figure
	atLeast float64 // 0: no lower limit
	atMost  float64 // 0: no upper limit
	// absolute: the figure is held to the limit as it is, not as a ratio to peers.
	absolute bool
}

// figure is what is compared.
type figure string

const (
	rate      figure = "requests/s"
	serverCPU figure = "server CPU"
	hostBytes figure = "host bytes per client byte"
	worst     figure = "p99.9"
)

// workloads are all there are, in the order of a whole run.
func workloads() []workload {
	all := append([]workload{bulk(), bulkPreallocated(), smallFlush()}, speed()...)
	all = append(all, lean()...)
	all = append(all, slowDisk()...)
	all = append(all, traced()...)
	all = append(all, sustained()...)
	all = append(all, encrypted()...)
	all = append(all,
		workload{name: "floor", about: "what no server can be faster than", run: floor},
		workload{name: "latency-checkpoint", about: "p99 of 4 KiB writes while the log is brought home, beside that while it is not", run: latencyCheckpoint},
		workload{name: "latency-homing", about: "p99 of 4 KiB writes while displaced blocks are brought home, beside that while they are not", run: latencyHoming},
		workload{name: "trim", about: "a trim of a whole sparse disk of 1 TiB, through the server", run: trimWhole},
		mkfs(),
		workload{name: "recovery", about: "how long a server takes to be ready again with a full log, and to answer the first read", run: recovery},
	)
	return all
}

// bulk is the "bulk writes": 1 MiB, depth 8, a flush each 64. A fresh disk is sparse,
// for both; then all of it is overwritten, again and again. The client is our own, because fio
// sends more flushes than that (client.go), and ends before the last bytes are flushed.
func bulk() workload {
	return overwritten("bulk", "1 MiB writes, depth 8, a flush each 64: fresh, and overwritten", jnbdOrdered, jnbdAuto, jnbdData)
}

// bulkPreallocated is the same with spare areas that were written when the disks were made. They are a
// race of their own, because the fewer disks are in memory at a time, the less they take from each
// other.
func bulkPreallocated() workload {
	return overwritten("bulk-preallocated", "the same with a spare area that was written when the disk was made", jnbdOrdered+preallocated, jnbdAuto+preallocated)
}

// overwritten is bulk of these servers.
func overwritten(name, about string, ours ...server) workload {
	write := wholeDisk{bytes: 1 << 20, depth: 8, flushEach: 64}
	r := race{
		servers: append(slices.Clone(ours), nbdkitFile, onceFloor),
		alone:   []server{jnbdData},
		image:   sparseImage,
		passes: []pass{
			{name: "fresh", load: write, bulk: true},
			{name: "first overwrite", load: write, bulk: true},
			{name: "second overwrite", load: write, bulk: true},
			{name: "third overwrite", load: write, bulk: true},
		},
	}
	for _, p := range r.passes {
		for _, s := range ours {
			if s != jnbdData {
				r.wants = append(r.wants, want{pass: p.name, ours: s, peers: []server{nbdkitFile}, figure: rate, atLeast: 0.95})
			}
		}
		r.wants = append(r.wants, want{pass: p.name, ours: onceFloor, peers: []server{nbdkitFile}, figure: rate})
	}
	return workload{name: name, about: about, run: runRace, race: r}
}

func smallFlush() workload {
	return workload{name: "small-flush", about: "4 KiB random writes, depth 1, a flush each", run: runRace, race: race{
		servers: []server{jnbdAuto, jnbdData, nbdkitFile},
		image:   wholeImage,
		passes:  []pass{{name: "steady", load: timed("--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1")}},
		wants: []want{
			// As fast as mode data: their ways are the same, so this is the measurement's noise.
			{pass: "steady", ours: jnbdAuto, peers: []server{jnbdData}, figure: rate, atLeast: 0.97},
			{pass: "steady", ours: jnbdAuto, figure: rate, atLeast: 1.4},
		},
	}}
}

// timed is a load that goes on for the length of a measurement; runFio fills it in.
func timed(args ...string) fioLoad { return append(args, timedMark) }

const timedMark = "--time_based"

func (w want) String() string {
	switch {
	case w.atLeast > 0:
		return fmt.Sprintf("≥ %.2f", w.atLeast)
	case w.atMost > 0:
		return fmt.Sprintf("≤ %.2f", w.atMost)
	}
	return ""
}
