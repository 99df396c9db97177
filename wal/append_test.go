package wal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPacking shows where the frames of a batch go. The segment has 64 KiB; the head is
// brought to the given place in it first.
func TestPacking(t *testing.T) {
	const p = 16384 // the longest payload here
	for _, c := range []struct {
		name string
		head int64
		reqs [][]int
		want string
	}{
		{"small requests share a frame", 4096, [][]int{{10}, {20, 30}, {0}}, `
0x1000 records aligned 512: 4
`},
		{"empty payloads fill lines", 4096, [][]int{make([]int, 12)}, `
0x1000 records aligned 512: 12
`},
		{"no room for the first record", 0xf000, [][]int{{p}}, `
0xf000 pad aligned 4096
0x10000 summary 512
0x10200 records 16896: 1
`},
		{"no room for the second request", 0xb000, [][]int{{p}, {p}}, `
0xb000 records aligned 16896: 1
0xf200 pad 3584
0x10000 summary 512
0x10200 records 16896: 1
`},
		{"a request that spans begins with a frame", 0xa000, [][]int{{100}, {200, p, p}, {300}}, `
0xa000 records aligned 512: 1
0xa200 records more 16896: 2
0xe400 pad 7168
0x10000 summary 512
0x10200 records 16896: 2
`},
		{"nor does a spanning one take a whole one along", 0xd000, [][]int{{100}, {200, 300, p}}, `
0xd000 records aligned 512: 1
0xd200 records more 1024: 2
0xd600 pad 10752
0x10000 summary 512
0x10200 records 16896: 1
`},
		{"over several segments", 0xf000, [][]int{{p, p, p, p, p}, {1}}, `
0xf000 pad aligned 4096
0x10000 summary 512
0x10200 records more 49664: 3
0x1c400 pad 15360
0x20000 summary 512
0x20200 records 33280: 3
`},
		{"flush before a boundary", 0x10000 - 512, [][]int{{1}}, `
0x10000 summary aligned 512
0x10200 records 512: 1
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			geo := geometry{size: MinLogBytes, seg: MinSegmentBytes}
			plan := plan{geo: geo, pos: c.head, align: true, entries: summaryHeadBytes}
			var recs []Record
			for n, sizes := range c.reqs {
				recs = append(recs, numbered(uint64(n), sizes...)...)
			}
			if !plan.batch(recs, geo.clientLimit(0)) {
				t.Fatal("it doesn't fit")
			}
			var b strings.Builder
			b.WriteByte('\n')
			for _, f := range plan.frames {
				fmt.Fprintf(&b, "%#x %v", f.pos, f.kind)
				if f.flags != 0 {
					fmt.Fprintf(&b, " %s", strings.Join(flagNames(f.flags), " "))
				}
				fmt.Fprintf(&b, " %d", f.length)
				if f.kind == KindRecords {
					fmt.Fprintf(&b, ": %d", f.to-f.from)
				}
				b.WriteByte('\n')
			}
			if diff := cmp.Diff(c.want, b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func flagNames(f Flags) []string { return strings.Split(f.String(), ",") }
