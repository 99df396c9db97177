package journal

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// host is a journal's device that notes how it is written, and can run out of space.
type host struct {
	*crashdisk.Disk
	mu     sync.Mutex
	cached map[int64]bool // units of the page cache that were written through it
	direct map[int64]bool // and past it
	full   bool           // guarded by mu; it has no more space to give
	given  int64          // guarded by mu; bytes it was asked for
}

func (h *host) note(where map[int64]bool, off, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for unit := off / cacheUnit; unit*cacheUnit < off+n; unit++ {
		where[unit] = true
	}
}

func (h *host) WriteAt(p []byte, off int64) (int, error) {
	h.note(h.cached, off, int64(len(p)))
	return h.Disk.WriteAt(p, off)
}

func (h *host) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	return h.gather(h.cached, bufs, off)
}

func (h *host) WriteDirectVAt(bufs [][]byte, off int64) (int64, error) {
	return h.gather(h.direct, bufs, off)
}

func (h *host) gather(where map[int64]bool, bufs [][]byte, off int64) (n int64, err error) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	h.note(where, off, n)
	return n, disk.WriteV(h.Disk, bufs, off)
}

func (h *host) Allocate(_, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full {
		return unix.ENOSPC
	}
	h.given += n
	return nil
}

// onHost is a disk whose journal lies on such a host.
func onHost(t *testing.T, l layout) (*Disk, *host, *crashdisk.Group) {
	t.Helper()
	g := formatted(t, l)
	p := l.parts(g)
	h := &host{Disk: p.Journal.(*crashdisk.Disk), cached: map[int64]bool{}, direct: map[int64]bool{}}
	p.Journal = h
	d, err := Open(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d, h, g
}

// TestNoUnitIsWrittenBothWays: whatever clients write, no 2 MiB of the journal are written both
// through the page cache and past it (disk.DirectWriter).
func TestNoUnitIsWrittenBothWays(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Ordered, jsuper.Auto} {
		l := layout{name: "apart", disk: 24 << 20, journal: logStart + 8<<20, mode: mode}
		d, h, g := onHost(t, l)
		rnd := rand.New(rand.NewPCG(3, 4))
		model := make([]byte, l.disk)
		for i := range uint64(400) {
			n := 1 + rnd.Int64N(8*blockBytes)
			if i%3 != 0 {
				n = 1 + rnd.Int64N(700<<10)
			}
			off := rnd.Int64N(l.disk - n)
			p := pattern(i, int(n))
			write(t, d, p, off)
			copy(model[off:], p)
			if i%8 == 0 {
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		expect(t, d, 0, model)
		h.mu.Lock()
		for unit := range h.direct {
			if h.cached[unit] {
				t.Errorf("mode %s: the 2 MiB at %d are written both ways", mode, unit*cacheUnit)
			}
		}
		if len(h.direct) == 0 || h.given == 0 {
			t.Errorf("mode %s: %d units were written past the cache, %d bytes asked for", mode, len(h.direct), h.given)
		}
		h.mu.Unlock()
		closed(t, d, l, g)
	}
}

// TestWritesDirect: the disk tells which way the last bulk took, also with so little spare that some of it
// goes through the log.
func TestWritesDirect(t *testing.T) {
	for _, l := range []layout{
		{mode: jsuper.Ordered},
		{mode: jsuper.Auto},
		{mode: jsuper.Auto, spare: 6 << 20},
	} {
		t.Run(fmt.Sprintf("%s-%d", l.mode, l.spare), func(t *testing.T) {
			l.name, l.disk, l.journal = "direct", 24<<20, logStart+8<<20
			writesDirect(t, l)
		})
	}
	d, g := opened(t, tiny, Options{})
	write(t, d, pattern(1, 128<<10), 0)
	if d.WritesDirect() {
		t.Error("mode data: past the page cache")
	}
	closed(t, d, tiny, g)
}

func writesDirect(t *testing.T, l layout) {
	d, h, g := onHost(t, l)
	ways := ""
	for i := range int64(50) {
		h.mu.Lock()
		clear(h.direct)
		h.mu.Unlock()
		before := d.Stats().LoggedBytes
		write(t, d, pattern(uint64(i), 512<<10), i%20*(512<<10))
		if i%6 == 5 { // homes are free again
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		h.mu.Lock()
		direct := len(h.direct) > 0
		h.mu.Unlock()
		if d.WritesDirect() != direct {
			t.Errorf("write %d: past the page cache %v, want %v (so far %s)", i, d.WritesDirect(), direct, ways)
		}
		switch {
		case direct:
			ways += "d"
		case d.Stats().LoggedBytes-before > 512<<10:
			ways += "l"
		default:
			ways += "c"
		}
	}
	t.Log(ways)
	then := "dc"
	if l.spare > 0 {
		then = "dl"
	}
	if !strings.Contains(ways, "cd") || !strings.Contains(ways, then) || strings.Contains(ways, "l") != (l.spare > 0) {
		t.Errorf("the writes took the ways %s, want cd and %s: cache, direct, and log if spare is short", ways, then)
	}
	closed(t, d, l, g)
}

// TestWrittenSpareKeepsItsSpace: a spare area that was written with the disk has all of its space
// then, and after its slots were used and freed; another one has none, and gives it back: what becomes
// free under load once the disk is idle.
func TestWrittenSpareKeepsItsSpace(t *testing.T) {
	for _, written := range []bool{false, true} {
		l := layout{name: "written", disk: 8 << 20, journal: logStart + 8<<20, mode: jsuper.Auto, spare: 4 << 20, written: written}
		p := Parts{Placement: jsuper.Beside}
		for _, f := range []struct {
			dev   *disk.Device
			bytes int64
		}{{&p.Backing, l.disk}, {&p.Journal, JournalSize(l.format())}} {
			file, err := disk.OpenFile(filepath.Join(t.TempDir(), "f"), disk.FileOptions{Create: true, Size: f.bytes})
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			*f.dev = file
		}
		if _, err := Format(p, l.format()); err != nil {
			t.Fatal(err)
		}
		d, err := Open(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		sb := d.super
		space := func() (bytes int64) {
			t.Helper()
			err := disk.Extents(p.Journal, sb.SpareOffset, sb.SpareBytes, func(_, n int64, hole bool) bool {
				if !hole {
					bytes += n
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			return bytes
		}
		if got := space() == sb.SpareBytes; got != written {
			t.Errorf("written %v: %d of %d bytes of a new spare area have space", written, space(), sb.SpareBytes)
		}
		displace(t, d, 0, 1<<20)
		used := space()
		reclaim := func(giveBack bool) (left int64) {
			t.Helper()
			// A flush has the checkpointer reclaim as under load, which keeps the space, and a test that
			// is held up for long has an idle disk: not now.
			d.checkpointMu.Lock()
			defer d.checkpointMu.Unlock()
			for range 2 { // the log proves itself what the first flush made durable
				write(t, d, []byte{1}, 4<<20)
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.reclaim(giveBack); err != nil {
				t.Fatal(err)
			}
			return space()
		}
		reclaim(true)                     // the homes
		write(t, d, pattern(3, 1<<20), 0) // goes there
		got := reclaim(true)              // the slots
		want := used - 1<<20              // what its step has beyond it stays
		if written {
			want = sb.SpareBytes
		}
		if got != want {
			t.Errorf("written %v: no slot is in use, and %d bytes of the spare area have space, want %d", written, got, want)
		}
		expect(t, d, 0, pattern(3, 1<<20))
		write(t, d, pattern(4, 1<<20), 0) // to spare
		reclaim(false)
		write(t, d, pattern(5, 1<<20), 0) // home
		if got := reclaim(false); got < 1<<20 || d.once.state.Stats().SpareUsed > 0 {
			t.Errorf("written %v: %d bytes of spare have space under load, %+v", written, got, d.once.state.Stats())
		}
		d.lastChange.Store(-int64(idleAfter))
		if err := d.giveBackIdle(); err != nil {
			t.Fatal(err)
		}
		if !written {
			want = 0
		}
		if got := space(); got != want {
			t.Errorf("written %v: %d bytes of spare have space on an idle disk", written, got)
		}
		displace(t, d, 0, 1<<20) // asks for space again
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullHostSendsBulkToTheLog: a host without space for spare slots costs write-once, and
// nothing else.
func TestFullHostSendsBulkToTheLog(t *testing.T) {
	l := layout{name: "full", disk: 8 << 20, journal: logStart + 4<<20, mode: jsuper.Auto}
	d, h, g := onHost(t, l)
	h.mu.Lock()
	h.full = true
	h.mu.Unlock()
	model := make([]byte, l.disk)
	for i := range uint64(12) {
		p := pattern(i, 1<<20)
		off := int64(i%3) << 20
		write(t, d, p, off)
		copy(model[off:], p)
	}
	if n := d.once.state.Stats().Displaced; n != 0 {
		t.Errorf("%d blocks are in slots that the host has no space for", n)
	}
	h.mu.Lock()
	h.full = false
	h.mu.Unlock()
	if err := d.Checkpoint(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	p := pattern(99, 1<<20)
	write(t, d, p, 0)
	copy(model, p)
	if n := d.once.state.Stats().Displaced; n != 256 {
		t.Errorf("with space again %d blocks are displaced, want 256", n)
	}
	expect(t, d, 0, model)
	closed(t, d, l, g)
}
