package wal

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"jnbd/disk"
)

// pageCache is a device that notes which sectors a page cache would have to read before it can
// take a write: those that the write covers in part, and that no write entered before.
type pageCache struct {
	disk.Device

	mu     sync.Mutex
	cached map[int64]bool // by offset; nil: not looked at
	reads  []string
}

func (c *pageCache) WriteAt(p []byte, off int64) (int, error) {
	_, err := c.WriteVAt([][]byte{p}, off)
	return len(p), err
}

func (c *pageCache) WriteVAt(bufs [][]byte, off int64) (n int64, err error) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	c.mu.Lock()
	for sector := alignDown(off, SectorBytes); c.cached != nil && sector < off+n; sector += SectorBytes {
		if whole := off <= sector && sector+SectorBytes <= off+n; !whole && !c.cached[sector] {
			c.reads = append(c.reads, fmt.Sprintf("write of [%#x, +%#x) takes a part of sector %#x", off, n, sector))
		}
		c.cached[sector] = true
	}
	c.mu.Unlock()
	return n, disk.WriteV(c.Device, bufs, off)
}

// forget empties the cache, as if the log's pages had gone to others.
func (c *pageCache) forget() {
	c.mu.Lock()
	c.cached = map[int64]bool{}
	c.mu.Unlock()
}

// An append must not wait for the medium. So it never writes a part of a sector that it is the
// first to enter, in any lap around the ring, with and without flushes between.
func TestAppendsReadNothing(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		dev := &pageCache{Device: disk.NewMem(MinLogBytes)}
		l, _ := open(t, dev, ScanOptions{}, steadyOptions(), nil)
		dev.forget()
		for n := uint64(0); l.Stats().Head < 4*MinLogBytes; n++ {
			sizes := make([]int, 1+rnd.IntN(4))
			for i := range sizes {
				sizes[i] = rnd.IntN(9000)
			}
			appendOne(t, l, numbered(n, sizes...))
			if rnd.IntN(3) == 0 {
				flush(t, l)
			}
			if st := l.Stats(); st.Head-st.Tail > MinLogBytes/2 {
				if err := l.Free(l.TailBefore(flush(t, l).Pos)); err != nil {
					t.Fatal(err)
				}
			}
			if rnd.IntN(50) == 0 {
				flush(t, l)
				dev.forget() // what is flushed may leave memory; the next frame starts on a new sector
			}
		}
		if len(dev.reads) > 0 {
			t.Fatalf("seed %d: %d reads, the first for a %s", seed, len(dev.reads), dev.reads[0])
		}
	}
}
