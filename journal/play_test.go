package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing/synctest"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/wal"
)

// Playing a script: its steps run one after the other in a synctest bubble, and the background
// settles after each, so that the same script does the same operations in the same order.

// truth is what the disk may read as: the states after each change since the last time that
// all of it was known.
type truth struct {
	states   [][]byte // states[i] is the disk after i changes
	killed   int      // the least that survives the death of the process
	powerCut int      // the least that survives a power loss
}

func newTruth(size int64) *truth { return &truth{states: [][]byte{make([]byte, size)}} }

func (m *truth) now() []byte { return m.states[len(m.states)-1] }

// change enters what a request is about to do.
func (m *truth) change(st *step, seed uint64) {
	after := bytes.Clone(m.now())
	part := after[st.off : st.off+st.n]
	if st.what == "zero" || st.what == "trim" {
		clear(part)
	} else {
		copy(part, pattern(seed, int(st.n)))
	}
	m.states = append(m.states, after)
}

// known begins anew: the disk was read as p, so that is what it must go on being.
func (m *truth) known(p []byte) {
	m.states, m.killed, m.powerCut = [][]byte{bytes.Clone(p)}, 0, 0
}

// check asks whether p is one of the states that a crash may leave.
func (m *truth) check(p []byte, powerLoss bool) error {
	least := m.killed
	if powerLoss {
		least = m.powerCut
	}
	for i := least; i < len(m.states); i++ {
		if bytes.Equal(m.states[i], p) {
			return nil
		}
	}
	at := firstDifference(p, m.states[least])
	for i := range m.states[:least] {
		if bytes.Equal(m.states[i], p) {
			return fmt.Errorf("the disk is as after %d changes, want %d to %d (byte %d)", i, least, len(m.states)-1, at)
		}
	}
	return fmt.Errorf("the disk is no state at all, want one after %d to %d changes (from the first it differs at byte %d: %#x, want %#x)",
		least, len(m.states)-1, at, p[at], m.states[least][at])
}

// player is a script on its way.
type player struct {
	s     *script
	g     *crashdisk.Group
	d     *Disk
	truth *truth
	crash int // the operation to crash at, counted over all machines; 0: none
	used  int // operations on former machines
}

// errCrashed ends a play whose power has gone.
var errCrashed = errors.New("the power went")

// play runs the script on a copy of base, with the power going at an operation. It returns
// errCrashed if there was one. The disk is abandoned in every case.
func (s *script) play(base *crashdisk.Group, crash int) (*player, error) {
	p := &player{s: s, truth: newTruth(s.disk), crash: crash}
	err := p.enter(base.KillImage())
	for i := 0; err == nil && i < len(s.steps); i++ {
		st := &s.steps[i]
		if err = p.step(st); err == nil {
			synctest.Wait()
		} else if !p.g.Crashed() {
			err = fmt.Errorf("step %d, %s: %w", i+1, st, err)
		}
	}
	crashed := p.g.Crashed()
	if p.d != nil {
		abandonQuietly(p.d)
	}
	if crashed {
		return p, errCrashed
	}
	return p, err
}

// enter opens the disk on a machine.
func (p *player) enter(g *crashdisk.Group) (err error) {
	p.g = g
	if p.crash > 0 {
		g.CrashAt(max(p.crash-p.used, 1))
	}
	p.d, err = Open(p.s.parts(g), Options{UnflushedBulk: p.s.flushed})
	return err
}

func (p *player) step(st *step) error {
	switch st.what {
	case "write", "zero", "trim":
		return p.request(st, st.seed)
	case "churn":
		for i := range uint64(st.count) {
			if err := p.request(st, st.seed+i); err != nil {
				return err
			}
		}
		return nil
	case "flush":
		err := p.d.Sync()
		if err == nil {
			p.truth.powerCut = len(p.truth.states) - 1
		}
		return err
	case "checkpoint":
		return unlessFull(p.d.Checkpoint(context.Background(), nil))
	case "batch":
		_, err := p.d.checkpointBatch(p.d.batchBytes, nil)
		return unlessFull(err)
	case "part":
		extents := 0
		_, err := p.d.checkpointBatch(p.d.batchBytes, func() bool { extents++; return extents >= st.count })
		return unlessFull(err)
	case "full", "full-state":
		p.refuse(st.count, st.what == "full")
		return nil
	case "tick":
		time.Sleep(idleCheck)
		return p.d.Err()
	case "idle":
		time.Sleep(idleAfter + 2*idleCheck)
		return p.d.Err()
	case "restart":
		return p.reboot(crashdisk.SeedKill)
	case "lose":
		return p.reboot(int64(st.count))
	}
	return p.end(st.what == "finish")
}

// refuse makes the host refuse that many writes of the stored state, or of all that may be refused.
func (p *player) refuse(count int, all bool) {
	sb := p.d.opened
	var places [2]struct{ from, to int64 } // of journal and backing, which may be one
	if sb.StateOffset != 0 {
		places[0].from, places[0].to = sb.StateOffset, sb.SpareOffset
	}
	if all {
		places[1].to = sb.DiskBytes
		places[0].to = max(places[0].to, sb.SpareOffset+sb.SpareBytes)
	}
	parts := p.s.parts(p.g)
	in := func(i int) func(off, n int64) bool {
		return func(off, n int64) bool { return off >= places[i].from && off+n <= places[i].to }
	}
	inState, inHomes := in(0), in(1)
	if parts.Backing == parts.Journal {
		p.g.Lookup("backing").Refuse(count, func(off, n int64) bool { return inState(off, n) || inHomes(off, n) })
		return
	}
	p.g.Lookup("journal").Refuse(count, inState)
	p.g.Lookup("backing").Refuse(count, inHomes)
}

// unlessFull is err, if it is not that the host was full: what it refused was promised to nobody.
func unlessFull(err error) error {
	if errors.Is(err, ErrHostFull) {
		return nil
	}
	return err
}

// request is a change.
func (p *player) request(st *step, seed uint64) error {
	p.truth.change(st, seed)
	var err error
	switch st.what {
	case "zero":
		err = p.d.Zero(st.off, st.n, !st.keep, nil)
	case "trim":
		err = p.d.Trim(st.off, st.n, nil)
	default:
		_, err = p.d.WriteAt(pattern(seed, int(st.n)), st.off)
	}
	if err != nil {
		return err
	}
	p.truth.killed = len(p.truth.states) - 1
	if st.fua {
		if err := p.d.Sync(); err != nil {
			return err
		}
		p.truth.powerCut = len(p.truth.states) - 1
	}
	return nil
}

// reboot crashes the machine and comes back on an image.
func (p *player) reboot(image int64) error {
	next := p.g.Image(image)
	p.used += p.g.Ops()
	p.g.CrashAt(0) // what the abandoned disk still does is no step's
	old := p.d
	p.d = nil
	abandonQuietly(old)
	if image != crashdisk.SeedKill {
		p.truth.killed = p.truth.powerCut
	}
	if err := p.enter(next); err != nil {
		return err
	}
	got, err := content(p.d)
	if err != nil {
		return err
	}
	defer done(got)
	if err := p.truth.check(got, image != crashdisk.SeedKill); err != nil {
		return err
	}
	p.truth.known(got)
	return nil
}

// end stops the disk in order, looks at what that left, and opens it again.
func (p *player) end(finish bool) error {
	p.refuse(0, true)
	stop := p.d.Close
	if finish {
		stop = func(ctx context.Context) error { return p.d.Finish(ctx, nil) }
	}
	if err := stop(context.Background()); err != nil {
		return err
	}
	p.truth.powerCut = len(p.truth.states) - 1
	if finish {
		if err := p.s.rawIs(p.g, p.truth.now()); err != nil {
			return err
		}
	}
	if r, err := Inspect(p.s.parts(p.g), InspectOptions{VerifyAll: true}); err != nil || r.OverlayExtents != 0 {
		return fmt.Errorf("after the end: %d extents are not home, %w", r.OverlayExtents, err)
	}
	d, err := Open(p.s.parts(p.g), Options{UnflushedBulk: p.s.flushed})
	p.d = d
	return err
}

// rawIs compares the raw image with what was read.
func (s *script) rawIs(g *crashdisk.Group, want []byte) error {
	raw := make([]byte, s.disk)
	if _, err := g.Lookup("backing").ReadAt(raw, 0); err != nil {
		return crashedOr(g, err)
	}
	if i := firstDifference(raw, want); i >= 0 {
		return fmt.Errorf("the raw image differs from the disk at byte %d: %#x, want %#x", i, raw[i], want[i])
	}
	return nil
}

// recover opens a machine after a crash and holds what it reads against the truth. served is
// what an earlier recovery showed, or nil. The power may go again, at operation again.
func (p *player) recover(g *crashdisk.Group, powerLoss, barrier bool, again int, served []byte) (shown []byte, err error) {
	g.CrashAt(again)
	cut := wal.CutPrefix
	if barrier {
		cut = wal.CutBarrier
	}
	d, err := Open(p.s.parts(g), Options{Recover: cut})
	if err != nil {
		return nil, crashedOr(g, fmt.Errorf("recovery: %w", err))
	}
	defer abandonQuietly(d)
	got, err := content(d)
	if err != nil {
		return nil, crashedOr(g, err)
	}
	defer done(got)
	if err := p.truth.check(got, powerLoss || barrier); err != nil {
		return nil, err
	}
	if served != nil && !bytes.Equal(served, got) {
		return nil, fmt.Errorf("byte %d is not what the first recovery served", firstDifference(got, served))
	}
	shown = bytes.Clone(got)
	if err := d.Finish(context.Background(), nil); err != nil {
		return shown, crashedOr(g, err)
	}
	return shown, p.s.rawIs(g, shown)
}

// crashedOr is errCrashed if the power went, else err.
func crashedOr(g *crashdisk.Group, err error) error {
	if g.Crashed() {
		return errCrashed
	}
	return err
}
