package main

import "slices"

// slowDisk is what a disk on which every read and write takes a millisecond makes of all servers. A
// server of ours has its journal on it, too: beside the disk it is a slow file of its own, inside
// it shares the disk's.
func slowDisk() []workload {
	fast := []server{jnbdLasting, jnbdLastInside}
	on := func(w workload) workload {
		w.race.slow = true
		w.race.servers = onDisks(w.race.servers)
		w.about += "; slow disk"
		return w
	}
	// The same is wanted of both places of the journal.
	both := func(w workload) workload {
		again := w.race.wants[0]
		again.ours = w.race.servers[1]
		w.race.wants = append(w.race.wants, again)
		return on(w)
	}
	random := randomWrites{bytes: 4096, depth: 32}
	flushes := randomWrites{bytes: 4096, depth: 32, flushEach: 32}
	single := randomWrites{bytes: 4096, depth: 1, flushEach: 1}
	return []workload{
		both(against("slow-4k-qd32", "4 KiB random writes, depth 32, while the log lasts", 10, random, fast...)),
		both(against("slow-4k-qd32-flush", "4 KiB random writes, depth 32, a flush each 32, while the log lasts", 10, flushes, fast...)),
		both(whenFull(against("slow-4k-qd32-full", "4 KiB random writes, depth 32, the log full", 1.2, random, jnbdFull, jnbdFullInside))),
		both(whenFull(against("slow-4k-qd32-flush-full", "4 KiB random writes, depth 32, a flush each 32, the log full", 1.2, flushes, jnbdFull, jnbdFullInside))),
		both(against("slow-4k-flush", "4 KiB random writes, depth 1, a flush each", 0.95, single, fast...)),
		both(inBulk(against("slow-write", "1 MiB sequential writes, depth 8", 0.95, timed("--rw=write", "--bs=1M", "--iodepth=8"), jnbdAuto, jnbdInside))),
	}
}

// whenFull is the same after a pass that fills the log of our servers.
func whenFull(w workload) workload {
	w.race.passes = append([]pass{{load: fillLog{}, ours: true}}, w.race.passes...)
	return w
}

// fillLog writes as much as a log of 64 MiB takes until writers are held back.
type fillLog struct{}

func (fillLog) run(c *config, p *process) (result, error) {
	const writes = 64 << 20 * 9 / 10 / 4608
	t, err := runClient(p.uri(), 32, randomWrites{bytes: 4096}.source(c.diskBytes, writes, readyTimeout, 0))
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// onDisks leaves out the null server, which has no disk that could be slow.
func onDisks(servers []server) []server {
	return slices.DeleteFunc(servers, func(s server) bool { return s == nullServer })
}
