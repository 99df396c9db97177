package nbd

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

const holeZero = stateHole | stateZero

// stripes writes every second page of d.
func stripes(d *memDisk, pages int) {
	for i := 0; i < pages; i += 2 {
		d.markLocked(int64(i)*memPage, memPage, true)
		copy(d.data[i*memPage:], bytes.Repeat([]byte{byte(i) | 1}, memPage))
	}
}

func TestBlockStatus(t *testing.T) {
	tables := []struct {
		name   string
		flags  uint16
		offset uint64
		length uint32
		want   []extent
	}{
		{"one page", 0, 0, 4096, []extent{{4096, 0}}},
		{"neighbours that are alike", 0, 4096, 3 * 4096, []extent{{3 * 4096, holeZero}}},
		{"both", 0, 0, 3 * 4096, []extent{{4096, 0}, {2 * 4096, holeZero}}},
		{"one is asked for", cfReqOne, 0, 3 * 4096, []extent{{4096, 0}}},
		{"one, merged, cut to the request", cfReqOne, 4100, 4096, []extent{{4096, holeZero}}},
		{"any offset", 0, 100, 4000, []extent{{3996, 0}, {4, holeZero}}},
		{"the last byte", 0, 64<<10 - 1, 1, []extent{{1, 0}}},
		{"fua is no matter", cfFUA, 0, 1, []extent{{1, 0}}},
	}
	d := newMemDisk(64 << 10)
	for _, page := range []int64{0, 15} {
		d.markLocked(page*memPage, memPage, true)
	}
	c := attachStructured(t, serveDisk(t, d))
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c.t = t
			r := c.must(cmdBlockStatus, tt.flags, tt.offset, tt.length, nil)
			if !slices.Equal(r.extents, tt.want) {
				t.Errorf("extents %v, want %v", r.extents, tt.want)
			}
		})
	}
	for _, r := range []struct {
		offset uint64
		length uint32
	}{{0, 0}, {0, 64<<10 + 1}, {64 << 10, 1}} {
		if got := c.do(cmdBlockStatus, 0, r.offset, r.length, nil); got.errno != EINVAL {
			t.Errorf("block status at %d length %d: %v, want EINVAL", r.offset, r.length, got.errno)
		}
	}
}

// A reply holds a bounded number of extents; the client asks on from its end.
func TestBlockStatusIsBounded(t *testing.T) {
	const maxStatusExtents = statusContextBytes / statusExtent
	const pages = 3 * maxStatusExtents
	d := newMemDisk(pages * memPage)
	stripes(d, pages)
	c := attachStructured(t, serveDisk(t, d))
	for offset := uint64(0); offset < c.size; {
		r := c.must(cmdBlockStatus, 0, offset, uint32(c.size-offset), nil)
		if len(r.extents) != maxStatusExtents {
			t.Fatalf("%d extents at %d, want %d", len(r.extents), offset, maxStatusExtents)
		}
		for _, e := range r.extents {
			want := extent{memPage, 0}
			if offset/memPage%2 == 1 {
				want.flags = holeZero
			}
			if e != want {
				t.Fatalf("extent at %d is %v, want %v", offset, e, want)
			}
			offset += uint64(e.length)
		}
	}
}

// Holes are sent as holes unless the client asks for one piece; the data is the same.
func TestStructuredReads(t *testing.T) {
	d := newMemDisk(1 << 20)
	d.markLocked(64<<10, 128<<10, true)
	copy(d.data[64<<10:], bytes.Repeat([]byte("data"), 32<<10))
	path := serveDisk(t, d)
	for _, cached := range []bool{true, false} {
		d.notCached.Store(!cached)
		for _, tt := range []struct {
			name           string
			flags          uint16
			offset, length int
			holes, chunks  int
		}{
			{"small data", 0, 64 << 10, 4096, 0, 1},
			{"small hole", 0, 0, 4096, 4096, 1},
			{"small hole in one piece", cfDF, 0, 4096, 0, 1},
			{"large, both", 0, 0, 512 << 10, 384 << 10, 3},
			{"large, in one piece", cfDF, 0, 512 << 10, 0, 1},
			{"large hole", 0, 512 << 10, 512 << 10, 512 << 10, 1},
			{"short holes are data", 0, 64<<10 - 100, 100<<10 + 100, 0, 1},
			{"nothing", 0, 0, 0, 0, 1},
		} {
			t.Run(fmt.Sprintf("%s, cached %v", tt.name, cached), func(t *testing.T) {
				c := attachStructured(t, path)
				r := c.must(cmdRead, tt.flags, uint64(tt.offset), uint32(tt.length), nil)
				if !bytes.Equal(r.data, d.content(tt.offset, tt.length)) {
					t.Error("the data is wrong")
				}
				if r.holes != tt.holes || r.chunks != tt.chunks {
					t.Errorf("%d bytes of holes in %d chunks, want %d in %d", r.holes, r.chunks, tt.holes, tt.chunks)
				}
			})
		}
	}
}

// Many small holes don't make a reply of many small chunks.
func TestChunksAreBounded(t *testing.T) {
	const pages = 1024
	d := newMemDisk(pages * memPage)
	stripes(d, pages)
	c := attachStructured(t, serveDisk(t, d))
	r := c.must(cmdRead, 0, 0, pages*memPage, nil)
	if !bytes.Equal(r.data, d.content(0, pages*memPage)) {
		t.Error("the data is wrong")
	}
	if r.chunks > maxPieces+1 || r.holes == 0 {
		t.Errorf("%d chunks with %d bytes of holes, want at most %d and some", r.chunks, r.holes, maxPieces+1)
	}
}

// A read that can't be completed is an error, never data with a hole in it.
func TestShortReadIsAnError(t *testing.T) {
	bothKinds(t, func(t *testing.T, attach func(testing.TB, string) *client) {
		c := attach(t, serveDisk(t, shortDisk{newMemDisk(1 << 20)}))
		for _, n := range []uint32{10, 1 << 20} {
			if r := c.do(cmdRead, 0, 0, n, nil); r.errno != EIO || len(r.data) != 0 {
				t.Errorf("read of %d bytes: %v with %d bytes, want EIO", n, r.errno, len(r.data))
			}
		}
	})
}

// shortDisk reads one byte less than asked, without an error, and claims to have no holes.
type shortDisk struct{ Device }

func (d shortDisk) ReadAt(p []byte, off int64) (int, error) { return d.Device.ReadAt(p[1:], off) }

func (d shortDisk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	visit(off, n, false, false)
	return nil
}
