package main

// The table of docs/benchmarks.md: auto beside every peer, over a unix socket, on a disk that
// is whole and in the page cache.

// speed is one workload for each of its lines.
func speed() []workload {
	load := func(name, about string, atLeast float64, args ...string) workload {
		return workload{name: name, about: about, run: runRace, race: race{
			servers: append([]server{jnbdAuto}, peers...),
			image:   wholeImage,
			passes:  []pass{{name: "steady", fio: timed(args...)}},
			wants:   []want{{pass: "steady", ours: jnbdAuto, figure: rate, atLeast: atLeast}},
		}}
	}
	hostLimit := func(w workload, atMost float64) workload {
		w.race.wants = append(w.race.wants, want{pass: "steady", ours: jnbdAuto, figure: hostBytes, absolute: true, atMost: atMost})
		return w
	}
	inBulk := func(w workload) workload {
		w.race.passes[0].bulk = true
		return w
	}
	random := load("speed-4k-qd32", "4 KiB random writes, depth 32", 2.5, "--rw=randwrite", "--bs=4k", "--iodepth=32")
	random.race.wants = append(random.race.wants, want{pass: "steady", ours: jnbdAuto, peers: []server{nbdkitFile}, figure: serverCPU, atMost: 0.4})
	sequential := inBulk(load("speed-write", "1 MiB sequential writes, depth 8", 1.0, "--rw=write", "--bs=1M", "--iodepth=8"))
	sequential.race.servers = append([]server{jnbdAuto, jnbdData}, peers...)
	sequential.race.wants = append(sequential.race.wants, want{pass: "steady", ours: jnbdData, figure: rate, atLeast: 0.5})
	return []workload{
		random,
		load("speed-4k-qd1", "4 KiB random writes, depth 1", 1.5, "--rw=randwrite", "--bs=4k", "--iodepth=1"),
		hostLimit(load("speed-4k-flush", "4 KiB random writes, depth 1, a flush each", 1.4, "--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"), 3.1),
		hostLimit(load("speed-4k-qd32-flush", "4 KiB random writes, depth 32, a flush each 32", 2.0, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=32"), 2.1),
		load("speed-512-qd32", "512 B random writes, depth 32", 2.0, "--rw=randwrite", "--bs=512", "--iodepth=32"),
		inBulk(load("speed-64k-qd16", "64 KiB random writes, depth 16", 1.0, "--rw=randwrite", "--bs=64k", "--iodepth=16")),
		load("speed-4k-4x32", "4 KiB random writes, 4 connections, depth 32 each", 3.0, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=4"),
		load("speed-read-qd32", "4 KiB random reads, depth 32", 1.5, "--rw=randread", "--bs=4k", "--iodepth=32"),
		load("speed-read-qd1", "4 KiB random reads, depth 1", 1.4, "--rw=randread", "--bs=4k", "--iodepth=1"),
		load("speed-mix", "4 KiB, 70 reads to 30 writes at random, depth 32", 2.0, "--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=32"),
		sequential,
		inBulk(load("speed-read", "1 MiB sequential reads, depth 8", 1.0, "--rw=read", "--bs=1M", "--iodepth=8")),
	}
}
