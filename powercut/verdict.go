package powercut

import (
	"bytes"
	"context"
	"fmt"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/wal"
)

// examiner looks at states of one recording, one at a time.
type examiner struct {
	rec     *Recording
	judge   *judge
	content []byte // what the disk reads as
	raw     []byte // the homes, after Finish
}

func newExaminer(rec *Recording, j *judge) *examiner {
	return &examiner{rec: rec, judge: j, content: make([]byte, rec.DiskBytes), raw: make([]byte, rec.DiskBytes)}
}

// examine is the verdict on a state, which it uses up:
//
//  1. Before `jnbd create` has returned there may be no disk yet. If there is one, it is
//     all zeros.
//  2. What `jnbd check` does finds no damage.
//  3. The engine recovers it, and it can be read.
//  4. The judge finds a prefix that is long enough.
//  5. With finish, brought home, the raw image is byte for byte what was read (P8).
//
// cut is where recovery cuts: with wal.CutBarrier only what was flushed is promised.
func (x *examiner) examine(g *crashdisk.Group, c crash, cut wal.Cut, finish bool) error {
	parts := x.parts(g)
	if c.at <= x.rec.Created {
		if _, err := jsuper.Probe(parts.Journal, parts.Placement); err != nil {
			return nil
		}
	}
	if cut == wal.CutBarrier {
		c.processOnly = false
	}
	if _, err := journal.Inspect(parts, journal.InspectOptions{VerifyAll: true, Direct: true}); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	d, err := journal.Open(parts, journal.Options{Recover: cut})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	err = x.judgeDisk(d, c)
	if err != nil || !finish {
		abandon(d)
		return err
	}
	if err := d.Finish(context.Background(), nil); err != nil {
		return fmt.Errorf("close after recovery: %w", err)
	}
	return x.compareRaw(parts.Backing)
}

// abandon ends a disk without bringing anything home.
func abandon(d *journal.Disk) {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_ = d.Close(done) // says that the context has ended
}

// parts are the recorded disks of a state, as the engine takes them.
func (x *examiner) parts(g *crashdisk.Group) journal.Parts {
	return partsOf(disksOf(g))
}

// disksOf are the recorded disks of a state.
func disksOf(g *crashdisk.Group) (disks []*crashdisk.Disk) {
	for _, name := range diskNames {
		if d := g.Lookup(name); d != nil {
			disks = append(disks, d)
		}
	}
	return disks
}

// judgeDisk is steps 3 and 4 for a disk that is open.
func (x *examiner) judgeDisk(d *journal.Disk, c crash) error {
	if _, err := d.ReadAt(x.content, 0); err != nil {
		return fmt.Errorf("read after recovery: %w", err)
	}
	_, err := x.judge.decide(x.content, c)
	return err
}

// compareRaw is step 5.
func (x *examiner) compareRaw(backing disk.Device) error {
	if _, err := backing.ReadAt(x.raw, 0); err != nil {
		return err
	}
	if !bytes.Equal(x.raw, x.content) {
		return fmt.Errorf("raw image after close differs from what was read, first at byte %d", firstDifference(x.raw, x.content))
	}
	return nil
}

// firstDifference is the index of the first byte that differs, of equal lengths.
func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
