package powercut

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"jnbd/journal"
	"jnbd/jsuper"
)

// Ending is how a round ends.
type Ending int

const (
	// Kill is kill -9 while requests are under way.
	Kill Ending = iota
	// Stop is SIGTERM after the last answer.
	Stop
)

// Options shape a run. Zero values mean the defaults.
type Options struct {
	// Jnbd is the path of the binary. Empty: the engine runs in this process, without FUSE.
	Jnbd string
	// Seed decides what is written. Timing is the host's, so a run can't be repeated
	// exactly; its recording can.
	Seed uint64
	// Mode is data (default), ordered or auto.
	Mode string
	// Beside puts the journal beside the disk, on a recorded disk of its own.
	Beside bool
	// DiskBytes is the served disk. Default 8 MiB.
	DiskBytes int64
	// JournalBytes is superblock and log. Default 64 MiB, the binary's least; without the
	// binary 3 MiB.
	JournalBytes int64
	// SpareBytes is the room for write-once versions. Default: the mode's own.
	SpareBytes int64
	// MostBytes is the largest request. Default 1 MiB; without the binary 128 KiB.
	MostBytes int64
	// Lanes are the connections, at least 2. Default 4.
	Lanes int
	// Requests are those of one lane in one round. Default 400.
	Requests int
	// Rounds are lives of the server. Default: Kill, Stop, Kill.
	Rounds []Ending
	// FlushTime is how long a flush of the disk takes. Default 1 ms.
	FlushTime time.Duration
}

// commitInterval is the server's: timers make barriers, too.
const commitInterval = 200 * time.Millisecond

func (o Options) withDefaults() Options {
	journalBytes, most := int64(64<<20), int64(1<<20)
	if o.Jnbd == "" {
		journalBytes, most = 3<<20, 128<<10
	}
	set(&o.DiskBytes, 8<<20)
	set(&o.JournalBytes, journalBytes)
	set(&o.MostBytes, most)
	set(&o.Lanes, 4)
	set(&o.Requests, 400)
	set(&o.FlushTime, time.Millisecond)
	set(&o.Mode, "data")
	if o.Rounds == nil {
		o.Rounds = []Ending{Kill, Stop, Kill}
	}
	return o
}

// set gives an option its default.
func set[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

// recordingRun is a run under way.
type recordingRun struct {
	opt       Options
	dir       string
	clock     Clock
	tape      tape
	recorders []*Recorder
	mounts    []*mount // one for each recorder; none without FUSE
	history   *history
	random    *rand.Rand
}

// Record makes a run and returns its recording:
//
//  1. Create the disk on the recorder.
//  2. For each round: serve, read everything back and judge it, write, end.
//  3. Serve once more, read, judge, and stop.
//
// An error that wraps ErrUnavailable is the host's; any other is a finding, or a mistake
// of the gate. The recording up to there comes with it, if there is one.
func Record(opt Options) (recording *Recording, err error) {
	opt = opt.withDefaults()
	if opt.Lanes < 2 {
		return nil, fmt.Errorf("%d lanes: want at least 2", opt.Lanes)
	}
	if _, err := jsuper.ParseMode(opt.Mode); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "powercut-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &recordingRun{opt: opt, dir: dir, random: rand.New(rand.NewPCG(opt.Seed, math.MaxUint64))}
	r.history = &history{clock: &r.clock}
	r.tape.clock = &r.clock
	recording = &Recording{DeviceBytes: opt.deviceBytes(), DiskBytes: opt.DiskBytes, Mode: opt.Mode, Seed: opt.Seed, Copied: opt.Jnbd != "" && opt.Beside}
	for i, size := range recording.DeviceBytes {
		r.recorders = append(r.recorders, newRecorder(&r.tape, i, size, opt.FlushTime))
	}
	if opt.Jnbd != "" {
		defer func() { err = errors.Join(err, r.unmount()) }()
		if err := r.mountAll(); err != nil {
			return nil, err
		}
	}
	if err := r.create(); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	recording.Created = r.clock.Next()
	err = r.rounds()
	recording.Events, recording.Requests = r.tape.Events(), r.history.snapshot()
	return recording, err
}

// format is how the disk is made. The mode is known to be good.
func (o *Options) format() journal.FormatOptions {
	mode, _ := jsuper.ParseMode(o.Mode)
	return journal.FormatOptions{DiskBytes: o.DiskBytes, JournalBytes: o.JournalBytes, Mode: mode, SpareBytes: o.SpareBytes}
}

// deviceBytes are the sizes of the recorded disks.
func (o *Options) deviceBytes() []int64 {
	journalBytes := journal.JournalSize(o.format())
	if o.Beside {
		return []int64{o.DiskBytes, journalBytes}
	}
	return []int64{o.DiskBytes + journalBytes}
}

// mountAll makes every recorder a file.
func (r *recordingRun) mountAll() error {
	for i, rec := range r.recorders {
		m, err := newMount(Export{rec}, filepath.Join(r.dir, diskNames[i]))
		if err != nil {
			return err
		}
		r.mounts = append(r.mounts, m)
	}
	return nil
}

// unmount takes the files away.
func (r *recordingRun) unmount() (err error) {
	for _, m := range r.mounts {
		err = errors.Join(err, m.unmount())
	}
	return err
}

// create is step 1.
func (r *recordingRun) create() error {
	if r.mounts == nil {
		return createInside(r.recorders, r.opt)
	}
	args := []string{
		"--mode", r.opt.Mode,
		"--size", strconv.FormatInt(r.opt.DiskBytes, 10), "--journal-size", strconv.FormatInt(r.opt.JournalBytes, 10),
	}
	if r.opt.SpareBytes > 0 {
		args = append(args, "--spare", strconv.FormatInt(r.opt.SpareBytes, 10))
	}
	if r.opt.Beside {
		return r.createElsewhere(args)
	}
	return program(r.opt.Jnbd).must(append([]string{"create", r.mounts[0].path, "--journal", "internal"}, args...)...)
}

// createElsewhere creates a disk with its journal beside it from plain files, and copies
// them onto the recorded disks: create itself takes no journal file that exists, and
// nbdfuse has no other.
func (r *recordingRun) createElsewhere(args []string) error {
	path := filepath.Join(r.dir, "plain.img")
	if err := program(r.opt.Jnbd).must(append([]string{"create", path}, args...)...); err != nil {
		return err
	}
	for i, path := range []string{path, path + ".jnbd"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(content) > len(r.recorders[i].data) {
			return fmt.Errorf("%s has %d bytes, its recorded disk only %d", path, len(content), len(r.recorders[i].data))
		}
		if _, err := r.recorders[i].WriteAt(content, 0); err != nil {
			return err
		}
		if err := errors.Join(r.recorders[i].Flush(), os.Remove(path)); err != nil {
			return err
		}
	}
	return nil
}

// serve starts the server on the recorded disk.
func (r *recordingRun) serve() (server, error) {
	socket := filepath.Join(r.dir, "jnbd.sock")
	if r.mounts == nil {
		return serveInside(r.recorders, socket)
	}
	where := "internal"
	if r.opt.Beside {
		where = r.mounts[journalDisk].path
	}
	return program(r.opt.Jnbd).serve(r.mounts[backingDisk].path, socket,
		"--journal", where, "--commit-interval", commitInterval.String(), "--log-level", "warn")
}

// rounds is steps 2 and 3.
func (r *recordingRun) rounds() error {
	all := lanes(r.opt)
	for i, ending := range append(r.opt.Rounds, Stop) {
		s, err := r.serve()
		if err != nil {
			return fmt.Errorf("round %d: serve: %w", i, err)
		}
		if err := r.readBack(s); err != nil {
			return errors.Join(fmt.Errorf("round %d: what is served after the last: %w", i, err), s.kill())
		}
		if i < len(r.opt.Rounds) {
			err = r.write(s, all, ending)
		}
		if err == nil && ending == Stop {
			began := r.clock.Next()
			if err = s.stop(); err == nil {
				r.history.stopped(began)
			}
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
	}
	return nil
}

// readBack judges what a new life of the server serves: nothing that was answered may be
// missing, for no power was cut yet. What is there must never be lost again.
func (r *recordingRun) readBack(s server) error {
	content, err := readDisk(s.socket())
	if err != nil {
		return err
	}
	j, err := newJudge(r.history.snapshot(), r.opt.DiskBytes)
	if err != nil {
		return err
	}
	there, err := j.decide(content, crash{at: r.clock.Next(), processOnly: true})
	if err != nil {
		return err
	}
	r.history.seen(there)
	return nil
}

// write runs all lanes for a round. With Kill the server dies somewhere in its second half;
// on return it is dead.
func (r *recordingRun) write(s server, all []*lane, ending Ending) error {
	full := make(chan struct{}) // closed when it is time to kill
	if ending == Kill {
		whole := r.opt.Requests * r.opt.Lanes
		goal := r.history.count() + whole/2 + r.random.IntN(whole/2)
		var once sync.Once
		r.history.watch(func(replies int) {
			if replies >= goal {
				once.Do(func() { close(full) })
			}
		})
		defer r.history.watch(nil)
	}
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, l := range all {
		wait.Go(func() { errs[i] = l.run(s.socket(), r.history) })
	}
	done := make(chan struct{})
	go func() { // ends with the lanes: each ends with the server at the latest
		wait.Wait()
		close(done)
	}()
	select {
	case <-full:
	case <-done: // with Kill, only because something failed
		return errors.Join(append(errs, r.unexpected(ending, s))...)
	}
	err := s.kill()
	<-done
	r.history.serverDied()
	for _, lost := range errs {
		var no *serverError
		if errors.As(lost, &no) {
			err = errors.Join(err, lost)
		}
	}
	return err
}

// unexpected cleans up when all lanes ended before the kill.
func (r *recordingRun) unexpected(ending Ending, s server) error {
	if ending == Stop {
		return nil
	}
	return errors.Join(errors.New("every lane ended before it was time to kill"), s.kill())
}
