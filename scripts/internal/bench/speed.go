package main

import "fmt"

// The table of docs/benchmarks.md: auto beside every peer and the floor, over a unix socket, on a
// disk that is whole and in the page cache.
//
// Random writes are measured with a log that lasts, which the wanted ratios are about, and
// beside it with the default one, which is brought home all the while.

// steady is the name of a workload's only pass.
const steady = "steady"

// against is a workload of servers of ours, the first of which has to be so much faster than the best
// peer.
func against(name, about string, atLeast float64, l load, ours ...server) workload {
	servers := append(append([]server{}, ours...), peers...)
	return workload{name: name, about: about, run: runRace, race: race{
		servers: append(servers, nullServer),
		alone:   ours[1:],
		image:   wholeImage,
		passes:  []pass{{name: steady, load: l}},
		wants:   []want{{pass: steady, ours: ours[0], figure: rate, atLeast: atLeast}},
	}}
}

// writes is a workload of random writes of fio.
func writes(name, about string, atLeast float64, bytes int64, depth, jobs int, more ...string) workload {
	args := fioLoad{"--rw=randwrite", fmt.Sprintf("--bs=%d", bytes), fmt.Sprintf("--iodepth=%d", depth), fmt.Sprintf("--numjobs=%d", jobs)}
	l := lastingLoad{args: append(args, more...), jobs: int64(jobs), bytes: bytes, logBytes: logBytes(bytes, len(more) > 0)}
	return against(name, about, atLeast, l, jnbdLasting, jnbdAuto)
}

// logBytes is what a write takes at most in the log: a frame of its own, which ends on a line of
// 512 bytes. With a flush behind it, the next one begins on a line of 4 KiB.
func logBytes(bytes int64, flush bool) int64 {
	frame := (bytes + 256 + 511) &^ 511
	if flush {
		return (frame + 1024 + 4095) &^ 4095
	}
	return frame
}

// reads is a workload of fio that leaves the log as it is.
func reads(name, about string, atLeast float64, args ...string) workload {
	return against(name, about, atLeast, timed(args...), jnbdAuto)
}

// inBulk is the same, told in bytes a second.
func inBulk(w workload) workload {
	w.race.passes[len(w.race.passes)-1].bulk = true
	return w
}

// cold is the same with nothing of the disk in the page cache.
func cold(w workload) workload {
	w.race.passes[0].cold = true
	return w
}

// fromLog is the same after a pass that writes three tenths of the disk. Of a server of ours that
// is in the log then; a write now and then keeps it there, because what is quiet is brought home.
func fromLog(w workload) workload {
	w.race.passes = append([]pass{{load: writeShare{tenths: 3}}}, w.race.passes...)
	return w
}

// withHostLimit also bounds the bytes written to the host.
func withHostLimit(w workload, atMost float64) workload {
	w.race.wants = append(w.race.wants, want{pass: steady, ours: w.race.servers[0], figure: hostBytes, absolute: true, atMost: atMost})
	return w
}

// speed is one workload for each line of the table.
func speed() []workload {
	random := writes("speed-4k-qd32", "4 KiB random writes, depth 32", 2.5, 4096, 32, 1)
	random.race.wants = append(random.race.wants, want{pass: steady, ours: jnbdLasting, peers: []server{nbdkitFile}, figure: serverCPU, atMost: 0.4})
	flushes := against("speed-4k-qd32-flush", "4 KiB random writes, depth 32, a flush each 32, by a client of our own", 2.0, randomWrites{bytes: 4096, depth: 32, flushEach: 32}, jnbdLasting, jnbdAuto)
	sequential := inBulk(against("speed-write", "1 MiB sequential writes, depth 8", 1.0, timed("--rw=write", "--bs=1M", "--iodepth=8"), jnbdAuto, jnbdData))
	sequential.race.wants = append(sequential.race.wants, want{pass: steady, ours: jnbdData, figure: rate, atLeast: 0.5})
	return []workload{
		random,
		writes("speed-4k-qd1", "4 KiB random writes, depth 1", 1.5, 4096, 1, 1),
		withHostLimit(writes("speed-4k-flush", "4 KiB random writes, depth 1, a flush each", 1.4, 4096, 1, 1, "--fsync=1"), 3.1),
		withHostLimit(flushes, 2.1),
		writes("speed-512-qd32", "512 B random writes, depth 32", 2.0, 512, 32, 1),
		inBulk(writes("speed-64k-qd16", "64 KiB random writes, depth 16", 1.0, 64<<10, 16, 1)),
		writes("speed-4k-4x32", "4 KiB random writes, 4 connections, depth 32 each", 3.0, 4096, 32, 4),
		reads("speed-read-qd32", "4 KiB random reads, depth 32", 1.5, "--rw=randread", "--bs=4k", "--iodepth=32"),
		reads("speed-read-qd1", "4 KiB random reads, depth 1", 1.4, "--rw=randread", "--bs=4k", "--iodepth=1"),
		cold(reads("speed-read-cold-qd32", "4 KiB random reads, depth 32, nothing in the page cache", 0, "--rw=randread", "--bs=4k", "--iodepth=32")),
		cold(reads("speed-read-cold-qd1", "4 KiB random reads, depth 1, nothing in the page cache", 0, "--rw=randread", "--bs=4k", "--iodepth=1")),
		fromLog(against("speed-read-log", "4 KiB, 99 reads to 1 write at random, depth 32, three tenths of the disk in the log", 0, timed("--rw=randrw", "--rwmixread=99", "--bs=4k", "--iodepth=32"), jnbdLasting)),
		against("speed-mix", "4 KiB, 70 reads to 30 writes at random, depth 32", 2.0, timed("--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=32"), jnbdLasting, jnbdAuto),
		sequential,
		inBulk(reads("speed-read", "1 MiB sequential reads, depth 8", 1.0, "--rw=read", "--bs=1M", "--iodepth=8")),
		inBulk(against("speed-copy-in", "nbdcopy of an image into the disk, and a flush", 0, copyLoad{}, jnbdAuto)),
		inBulk(against("speed-copy-out", "nbdcopy of the disk to nowhere", 0, copyLoad{out: true}, jnbdAuto)),
	}
}

// lean is the table's rows of small requests again, by a client of our own. fio needs 6 to 7 µs of
// the processor for each, so on few processors it is fio that is measured.
func lean() []workload {
	row := func(name, about string, atLeast float64, l randomWrites, ours ...server) workload {
		return against("lean-"+name, about+", by a client of our own", atLeast, l, ours...)
	}
	random := row("4k-qd32", "4 KiB random writes, depth 32", 2.5, randomWrites{bytes: 4096, depth: 32}, jnbdLasting, jnbdAuto)
	random.race.wants = append(random.race.wants, want{pass: steady, ours: jnbdLasting, peers: []server{nbdkitFile}, figure: serverCPU, atMost: 0.4})
	return []workload{
		random,
		row("4k-qd1", "4 KiB random writes, depth 1", 1.5, randomWrites{bytes: 4096, depth: 1}, jnbdLasting, jnbdAuto),
		withHostLimit(row("4k-flush", "4 KiB random writes, depth 1, a flush each", 1.4, randomWrites{bytes: 4096, depth: 1, flushEach: 1}, jnbdLasting, jnbdAuto), 3.1),
		row("512-qd32", "512 B random writes, depth 32", 2.0, randomWrites{bytes: 512, depth: 32}, jnbdLasting, jnbdAuto),
		inBulk(row("64k-qd16", "64 KiB random writes, depth 16", 1.0, randomWrites{bytes: 64 << 10, depth: 16}, jnbdLasting, jnbdAuto)),
		row("4k-4x32", "4 KiB random writes, 4 connections, depth 32 each", 3.0, randomWrites{bytes: 4096, depth: 32, conns: 4}, jnbdLasting, jnbdAuto),
		row("read-qd32", "4 KiB random reads, depth 32", 1.5, randomWrites{bytes: 4096, depth: 32, reads: 100}, jnbdAuto),
		row("read-qd1", "4 KiB random reads, depth 1", 1.4, randomWrites{bytes: 4096, depth: 1, reads: 100}, jnbdAuto),
		row("mix", "4 KiB, 70 reads to 30 writes at random, depth 32", 2.0, randomWrites{bytes: 4096, depth: 32, reads: 70}, jnbdLasting, jnbdAuto),
	}
}
