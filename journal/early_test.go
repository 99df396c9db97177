package journal

import (
	"sync/atomic"
	"testing"

	"jnbd/disk/crashdisk"
)

// cacheOf counts what was written to a device and not given to its medium yet.
type cacheOf struct {
	*crashdisk.Disk
	waiting, most atomic.Int64
}

func (c *cacheOf) WriteAt(p []byte, off int64) (int, error) {
	now := c.waiting.Add(int64(len(p)))
	c.most.Store(max(c.most.Load(), now))
	return c.Disk.WriteAt(p, off)
}

func (c *cacheOf) WriteBack(off, n int64) {
	if off == 0 && n == c.Size() {
		c.waiting.Store(0)
	}
}

func (c *cacheOf) Flush() error {
	c.waiting.Store(0)
	return c.Disk.Flush()
}

// TestBulkInPlaceIsWrittenBackEarly: between two flushes the medium gets what comes in bulk, so
// that a flush finds little to do.
func TestBulkInPlaceIsWrittenBackEarly(t *testing.T) {
	l := orderedLayout
	l.disk, l.journal = 4*earlyBytes, logStart+16<<20
	parts := l.parts(formatted(t, l))
	home := &cacheOf{Disk: parts.Backing.(*crashdisk.Disk)}
	parts.Backing = home
	d, err := Open(parts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	home.most.Store(0)
	const piece = 1 << 20
	for off := int64(0); off < l.disk; off += piece {
		write(t, d, pattern(uint64(off), piece), off)
	}
	if most := home.most.Load(); most == 0 || most > earlyBytes {
		t.Errorf("%d bytes waited for a flush, want up to %d", most, earlyBytes)
	}
	if got := d.Stats().InPlaceBytes; got != uint64(l.disk) {
		t.Errorf("%d bytes went in place, want all %d", got, l.disk)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
