package powercut

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"jnbd/disk/crashdisk"
)

// A replay plays a recording into a crashdisk, so that there is one model of what disks lose:
//
//  1. The recording's calls and returns become one list of moments, in the order of stamps.
//  2. A call starts the operation on the crashdisk, which holds it before its effect.
//  3. A return lets it go. So the operations overlap exactly as they did, and a flush
//     covers exactly what it covered.
//  4. Cut k is the instant just before moment k. Everything answered to clients before that
//     moment was answered before the power went.

// Lie is what a replay pretends about flushes. A test that does not notice a lie is no test.
type Lie int

const (
	// Honest flushes do what they say.
	Honest Lie = iota
	// NoFlush does nothing for any flush after the disk was created.
	NoFlush
	// SomeFlushes does nothing for one in four of them, by chance, but the same ones in every
	// replay. (Every fourth would be the same step of each checkpoint.)
	SomeFlushes
)

// ParseLie reads none, all or some: the flushes that are ignored.
func ParseLie(text string) (Lie, error) {
	lie, ok := map[string]Lie{"none": Honest, "all": NoFlush, "some": SomeFlushes}[text]
	if !ok {
		return Honest, fmt.Errorf("flushes to ignore: %q, want none, all or some", text)
	}
	return lie, nil
}

// moment is the call or the return of an event.
type moment struct {
	stamp int64
	event int
	end   bool
}

// replay is a crashdisk on its way through a recording. It is for one goroutine.
type replay struct {
	rec     *Recording
	moments []moment
	lie     Lie
	random  *rand.Rand // which flushes a lie is about
	ignored int        // so many

	group   *crashdisk.Group
	disks   []*crashdisk.Disk
	at      int                // the next moment
	running map[int]*heldOp    // by event: called, not returned
	dirty   map[int]struct{}   // events that are not durable
	covers  map[int][]int      // by flush: the dirty events that had returned when it began
	done    map[int]struct{}   // dirty events that have returned
	reached chan struct{}      // the operation that was started is held
	next    chan chan struct{} // what it is to wait for
}

// heldOp is an operation that waits between its number and its effect.
type heldOp struct {
	release chan struct{}
	result  chan error
}

// newReplay is at the beginning: no event has happened.
func newReplay(rec *Recording, lie Lie) *replay {
	r := &replay{
		rec: rec, lie: lie, random: rand.New(rand.NewPCG(1, 4)),
		moments: momentsOf(rec),
		group:   crashdisk.NewGroup(1),
		running: map[int]*heldOp{}, dirty: map[int]struct{}{}, covers: map[int][]int{}, done: map[int]struct{}{},
		reached: make(chan struct{}), next: make(chan chan struct{}, 1),
	}
	for i, size := range rec.DeviceBytes {
		r.disks = append(r.disks, r.group.Disk(diskNames[i], size))
	}
	r.group.OnOp(func(int, string) {
		release := <-r.next
		r.reached <- struct{}{}
		<-release
	})
	return r
}

func momentsOf(rec *Recording) []moment {
	var list []moment
	for i := range rec.Events {
		e := &rec.Events[i]
		list = append(list, moment{e.Begin, i, false})
		if e.End != 0 {
			list = append(list, moment{e.End, i, true})
		}
	}
	slices.SortFunc(list, func(a, b moment) int { return cmp.Compare(a.stamp, b.stamp) })
	return list
}

// to plays on until cut k.
func (r *replay) to(k int) error {
	for ; r.at < k; r.at++ {
		m := r.moments[r.at]
		if m.end {
			if err := r.finish(m.event); err != nil {
				return fmt.Errorf("replay %s: %w", &r.rec.Events[m.event], err)
			}
			continue
		}
		r.start(m.event)
	}
	return nil
}

// reach is to, for a cut that somebody else named.
func (r *replay) reach(s State) error {
	if s.Cut > len(r.moments) {
		return fmt.Errorf("state %s: the recording has only %d cuts", s, len(r.moments))
	}
	return r.to(s.Cut)
}

// start is a call.
func (r *replay) start(i int) {
	e := &r.rec.Events[i]
	if e.Kind == EventFlush {
		if r.ignores(e) {
			return
		}
		for at := range r.done {
			if r.rec.Events[at].Disk == e.Disk {
				r.covers[i] = append(r.covers[i], at)
			}
		}
	} else {
		r.dirty[i] = struct{}{}
	}
	op := &heldOp{release: make(chan struct{}), result: make(chan error, 1)}
	r.running[i] = op
	r.next <- op.release
	go func() { op.result <- perform(r.disks[e.Disk], e) }() // ends with release; see end
	<-r.reached
}

// perform is an event, on a disk.
func perform(d *crashdisk.Disk, e *Event) error {
	switch {
	case e.Kind == EventFlush:
		return d.Flush()
	case e.Data == nil:
		return d.Zero(e.Off, e.N, e.Punch)
	}
	_, err := d.WriteAt(e.Data, e.Off)
	return err
}

// finish is a return.
func (r *replay) finish(i int) error {
	op := r.running[i]
	if op == nil {
		return nil // a flush that was ignored
	}
	delete(r.running, i)
	close(op.release)
	if err := <-op.result; err != nil {
		return err
	}
	if r.rec.Events[i].Kind != EventFlush {
		r.done[i] = struct{}{}
		return nil
	}
	for _, at := range r.covers[i] {
		delete(r.dirty, at)
		delete(r.done, at)
	}
	delete(r.covers, i)
	return nil
}

// ignores reports whether the lie is about this flush.
func (r *replay) ignores(e *Event) bool {
	if r.lie == Honest || e.Begin < r.rec.Created {
		return false
	}
	if r.lie == SomeFlushes && r.random.IntN(4) != 0 {
		return false
	}
	r.ignored++
	return true
}

// unflushed is how many writes a power cut may take here.
func (r *replay) unflushed() int { return len(r.dirty) }

// end lets go of the operations that are still held. The replay is of no use afterwards.
func (r *replay) end() {
	r.group.Crash()
	for _, op := range r.running {
		close(op.release)
		<-op.result
	}
}
