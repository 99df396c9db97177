package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"
)

// runRace gives every server the same load, round after round: in turns while all are up, if the load
// can be divided (turns.go), else one after the other. A server is started for each round and stopped
// after it. Each round begins with another server: memory that was just given back is faster than what
// comes new, and who always came behind the same one would always have more of it. The round before
// the first is one after the other for all, and its speed does not count: it wakes the machine up.
func runRace(c *config, w *workload) error {
	if err := w.race.validate(); err != nil {
		return err
	}
	turns, alone := w.race.inTurns()
	first, err := c.onePerTime(w.race.servers, &w.race)
	if err != nil {
		return err
	}
	results := map[key][]result{}
	for round := 1; round <= c.rounds; round++ {
		byThemselves, err := c.onePerTime(rotated(alone, round), &w.race)
		if err != nil {
			return err
		}
		together, err := c.turnsRound(rotated(turns, round), &w.race)
		if err != nil {
			return err
		}
		for k, r := range byThemselves {
			results[k] = append(results[k], r)
		}
		for k, r := range together {
			one := first[k]
			r.bytesOnHost = r.bytes * one.of(hostBytes)
			results[k] = append(results[k], r)
		}
		fmt.Fprintf(os.Stderr, "bench: %s: round %d of %d\n", w.name, round, c.rounds)
	}
	c.report.addRace(w, results)
	return nil
}

// rotated begins with another server each round.
func rotated(servers []server, round int) []server {
	n := round % max(len(servers), 1)
	return slices.Concat(servers[n:], servers[:n])
}

// onePerTime is a round of servers that are up one after the other.
func (c *config) onePerTime(servers []server, r *race) (map[key]result, error) {
	all := map[key]result{}
	for _, s := range servers {
		passes, err := c.round(s, r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		for name, r := range passes {
			all[key{s, name}] = r
		}
	}
	return all, nil
}

// key is a server in a pass.
type key struct {
	server server
	pass   string
}

// round is all passes of one server.
func (c *config) round(s server, r *race) (map[string]result, error) {
	if s == onceFloor {
		return c.mediumPasses(r)
	}
	path, err := c.prepare(s, r.image)
	if err != nil {
		return nil, err
	}
	if r.image == wholeImage && !r.slow {
		if err := warm(path); err != nil {
			return nil, err
		}
	}
	at, err := c.place(path, r.slow && s != nullServer)
	if err != nil {
		return nil, err
	}
	passes, err := c.serve(s, at, r)
	if err = errors.Join(err, at.close()); err != nil {
		return nil, err
	}
	if len(at.slow) > 0 && s.isOurs() {
		if err := c.emptyLog(path); err != nil {
			return nil, err
		}
	}
	if err := settle(path); err != nil {
		return nil, err
	}
	return passes, c.discard(path, r.image)
}

// serve starts a server, gives it all passes, and ends it in order.
func (c *config) serve(s server, at *place, r *race) (map[string]result, error) {
	p, err := c.startAt(s, at)
	if err != nil {
		return nil, err
	}
	defer p.kill()
	passes := map[string]result{}
	last := ""
	for _, pass := range r.passes {
		if pass.ours && !s.isOurs() {
			continue
		}
		if pass.cold {
			if err := evictAll(at.disk); err != nil {
				return nil, err
			}
		}
		last = pass.name
		measured, err := c.measure(s, p, at, pass)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pass.name, err)
		}
		if pass.name != "" {
			passes[pass.name] = measured
		}
	}
	if len(at.slow) > 0 && s.isOurs() {
		p.kill() // to bring home on a slow disk takes minutes: see emptyLog
		return passes, nil
	}
	if err := p.stop(); err != nil || last == "" {
		return passes, err
	}
	// What a server of ours has in its log when it ends is written once more, to its home.
	ended, err := c.bytesOnDevice(at)
	end := passes[last]
	end.bytesOnHost += ended - end.deviceAfter
	passes[last] = end
	return passes, err
}

// bytesOnDevice is the counter of the device once nothing of the disk waits in the page cache.
func (c *config) bytesOnDevice(at *place) (float64, error) {
	if err := settle(at.disk); err != nil {
		return 0, err
	}
	return bytesOnDevice(c.dir)
}

// emptyLog brings home what a server on a slow disk has left, with a server on the same disk that
// is not slow.
func (c *config) emptyLog(path string) error {
	p, _, err := c.startJnbd(&place{disk: path, socket: path + ".sock"}, "--accept-backing")
	if err != nil {
		return err
	}
	defer p.kill()
	return p.stop()
}

// measure is one pass.
func (c *config) measure(s server, p *process, at *place, pass pass) (result, error) {
	checkpoints, err := c.checkpoints(s, at)
	if err != nil {
		return result{}, err
	}
	written, err := c.bytesOnDevice(at)
	if err != nil {
		return result{}, err
	}
	before, err := p.use()
	if err != nil {
		return result{}, err
	}
	done, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- p.watchPeak(done) }() // ends with the load
	r, err := pass.load.run(c, p)
	close(done)
	r.peak = float64(<-peak)
	if err != nil {
		return result{}, err
	}
	after, err := p.use()
	if err != nil {
		return result{}, err
	}
	r.server = after.minus(before.cpu)
	now, err := c.bytesOnDevice(at)
	if err != nil {
		return result{}, err
	}
	r.bytesOnHost, r.deviceAfter = now-written, now
	r.checkpoints, err = c.checkpoints(s, at)
	r.checkpoints -= checkpoints
	return r, err
}

// checkpoints is how many a running server of ours has made. It tells that over a socket beside
// its disk, for which a slow one has no room.
func (c *config) checkpoints(s server, at *place) (int, error) {
	if !s.isOurs() || len(at.slow) > 0 {
		return 0, nil
	}
	out, err := exec.Command(c.jnbd, "info", at.disk, "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("jnbd info: %w", err)
	}
	var info struct {
		Live struct {
			Log struct {
				Checkpoints int `json:"checkpoints"`
			} `json:"log"`
		} `json:"live"`
	}
	err = json.Unmarshal(out, &info)
	return info.Live.Log.Checkpoints, err
}

// settle writes everything of a disk that still waits in the page cache, so that it is not
// written while the next server is measured.
func settle(path string) error {
	return eachFile(path, func(f *os.File) error { return f.Sync() })
}

// warm brings a disk into the page cache, image and log, as both were when they were made: the peers
// share one image, and would find it warmer than ours, which has to wait for its turn. In which pieces
// it lies there counts. With read-ahead they would be up to 2 MiB, and each write of 4 KiB into one
// would take the kernel twice as long. The image comes in as single pages, as writeImage wrote it; the
// log is written again, what of it is missing, in the pieces of jnbd create.
func warm(path string) error {
	return eachFile(path, func(f *os.File) error {
		if f.Name() != path {
			return warmLog(f.Name())
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
			return err
		}
		_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, 1<<20))
		return err
	})
}

// createPiece is the size of the writes by which jnbd create fills a log.
const createPiece = 32 << 10

// warmLog is warm for a journal: for all of it that has space, which is the log and no spare slot that
// was never used.
func warmLog(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return err
	}
	p := make([]byte, createPiece)
	for end := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO { // no more
			return f.Sync()
		}
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		}
		for at := from; err == nil && at < end; at += createPiece {
			err = warmPiece(f, p[:min(createPiece, end-at)], at)
		}
		if err != nil {
			return fmt.Errorf("warm %s: %w", path, err)
		}
	}
}

// warmPiece writes a piece of a file again, by one write, if it is not in the page cache.
func warmPiece(f *os.File, p []byte, at int64) error {
	if n, err := unix.Preadv2(int(f.Fd()), [][]byte{p}, at, unix.RWF_NOWAIT); err == nil && n == len(p) {
		return nil
	}
	if _, err := f.ReadAt(p, at); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), at, int64(len(p)), unix.FADV_DONTNEED); err != nil {
		return err
	}
	_, err := f.WriteAt(p, at)
	return err
}

// evictAll drops all of a disk from the page cache.
func evictAll(path string) error { return eachFile(path, evict) }

// eachFile opens the files of a disk, one after the other; the null server has none.
func eachFile(path string, do func(*os.File) error) error {
	for _, name := range []string{path, path + ".jnbd"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(do(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// evict drops a file from the page cache.
func evict(f *os.File) error {
	if err := f.Sync(); err != nil { // what is not written yet stays
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// among is the race of those servers that the command line asks for: by -only, and by -before the
// other build behind each of ours, with which it is compared. What is wanted of others is left out.
func (r race) among(c *config) race {
	servers, wants := r.servers, r.wants
	r.servers, r.wants = nil, nil
	for _, s := range servers {
		candidates := []server{s}
		if s.isOurs() && c.before != "" {
			candidates = append(candidates, s+otherOne)
		}
		for _, candidate := range candidates {
			if c.only == nil || c.only.MatchString(string(candidate)) {
				r.servers = append(r.servers, candidate)
			}
		}
	}
	for _, w := range wants {
		compared := want{pass: w.pass, ours: w.ours, peers: []server{w.ours + otherOne}, figure: w.figure}
		for _, w := range []want{compared, w} {
			if r.has(w) {
				r.wants = append(r.wants, w)
			}
		}
	}
	return r
}

// has reports whether the servers of a want take part.
func (r *race) has(w want) bool {
	missing := func(s server) bool { return !slices.Contains(r.servers, s) }
	if missing(w.ours) || slices.ContainsFunc(w.peers, missing) {
		return false
	}
	return len(w.peers) > 0 || w.absolute || slices.ContainsFunc(r.servers, server.isPeer)
}

// validate finds wants that nothing could ever meet.
func (r *race) validate() error {
	for _, w := range r.wants {
		found := false
		for _, p := range r.passes {
			found = found || p.name == w.pass
		}
		if !found {
			return fmt.Errorf("a ratio is wanted of pass %q, which there is not", w.pass)
		}
	}
	return nil
}
