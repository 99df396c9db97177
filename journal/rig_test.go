package journal

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
	"jnbd/wal"
)

// TestMain lets garbage grow to five times of what is in use before it is collected: each of the
// many thousand disks lives for a moment, and to collect at each doubling is half of the work.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// layout is where the journal of a crash test lies, and how large things are.
type layout struct {
	name     string
	internal bool
	disk     int64 // bytes
	journal  int64 // superblock and log
	mode     jsuper.Mode
	spare    int64
	written  bool // the spare area was, by Format
}

func (l layout) format() FormatOptions {
	return FormatOptions{DiskBytes: l.disk, JournalBytes: l.journal, Mode: max(l.mode, jsuper.Data), SpareBytes: l.spare, WriteSpare: l.written}
}

func (l layout) parts(g *crashdisk.Group) Parts {
	journal := JournalSize(l.format())
	if l.internal {
		b := g.Disk("backing", l.disk+journal)
		return Parts{Backing: b, Journal: b, Placement: jsuper.Internal}
	}
	return Parts{Backing: g.Disk("backing", l.disk), Journal: g.Disk("journal", journal), Placement: jsuper.Beside}
}

// machine makes the layout's devices on g.
func (l layout) machine(g *crashdisk.Group) *crashdisk.Group {
	l.parts(g)
	return g
}

// formatted is a machine with a fresh disk of that layout, everything durable.
func formatted(t testing.TB, l layout) *crashdisk.Group {
	t.Helper()
	g := crashdisk.NewGroup(1)
	if _, err := Format(l.parts(g), l.format()); err != nil {
		t.Fatalf("format: %v", err)
	}
	return g.KillImage()
}

// run sends every client's requests, each client from a goroutine of its own, and stamps
// what was sent and what was answered. A client stops at its first error. A single client
// runs in the caller's goroutine.
func run(d *Disk, clients []*client) error {
	var clock stamps
	if len(clients) == 1 {
		return clients[0].run(d, &clock)
	}
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { errs[i] = c.run(d, &clock) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *client) run(d *Disk, clock *stamps) error {
	for i := range c.ops {
		o := &c.ops[i]
		o.sent = clock.next()
		// A server knows of a flush beforehand if it has come with the write.
		known := i%2 == 0 && i+1 < len(c.ops) && c.ops[i+1].kind == opFlush
		if err := o.perform(d, known); err != nil {
			return err
		}
		o.replied = clock.next()
		// A client waits for its reply. Without the pause a flush that the log begins by itself
		// never gets a turn on one processor.
		runtime.Gosched()
	}
	return nil
}

// perform is what the protocol server does for one request. flush says that it knows of a flush
// that follows.
func (o *op) perform(d *Disk, flush bool) error {
	var err error
	switch o.kind {
	case opWrite:
		err = d.WriteBatch([][]byte{o.data()}, []int64{o.off}, flush || o.fua, nil)
	case opZero:
		err = d.Zero(o.off, o.n, o.punch, nil)
	case opTrim:
		err = d.Trim(o.off, o.n, nil)
	}
	if err == nil && (o.kind == opFlush || o.fua) {
		err = d.Sync()
	}
	return err
}

// abandon ends a disk whose machine has crashed: its goroutines must not outlive the test.
func abandon(d *Disk) {
	d.Close(context.Background()) // fails: there is no disk any more
}

// contents are reused between the thousands of states of a suite; see recovered.
var contents = sync.Pool{New: func() any { return new([]byte) }}

// content is the whole disk as a client reads it.
func content(d *Disk) ([]byte, error) {
	p := *contents.Get().(*[]byte)
	if int64(cap(p)) < d.size {
		p = make([]byte, d.size)
	}
	p = p[:d.size]
	_, err := d.ReadAt(p, 0)
	return p, err
}

// done gives back what content returned.
func done(p []byte) { contents.Put(&p) }

// recovered opens the disk of a post-crash machine and returns what it reads as.
func recovered(l layout, g *crashdisk.Group, cut wal.Cut) (*Disk, []byte, error) {
	return reopened(l, g, Options{Recover: cut})
}

// restarted is recovered in a known run of the host's kernel.
func restarted(l layout, g *crashdisk.Group, boot [16]byte) (*Disk, []byte, error) {
	return reopened(l, g, Options{BootID: boot})
}

func reopened(l layout, g *crashdisk.Group, opt Options) (*Disk, []byte, error) {
	d, err := Open(l.parts(g), opt)
	if err != nil {
		return nil, nil, err
	}
	p, err := content(d)
	if err != nil {
		abandon(d)
		return nil, nil, err
	}
	return d, p, nil
}
