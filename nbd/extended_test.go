package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"testing"
)

// vastDisk is a disk of 8 TiB that remembers what it was asked to drop. All of it is a hole
// but its last 4 KiB.
type vastDisk struct {
	*memDisk
	mu    sync.Mutex
	drops []piece // zero: with punch
}

const vastSize = 1 << 43

func (d *vastDisk) Size() (int64, error) { return vastSize, nil }

func (d *vastDisk) Trim(off, n int64, admit func() bool) error { return d.Zero(off, n, true, admit) }

func (d *vastDisk) Zero(off, n int64, punch bool, admit func() bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !admit() {
		return ErrDropped
	}
	d.drops = append(d.drops, piece{off, n, punch})
	return nil
}

func (d *vastDisk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	const data = vastSize - memPage
	if off < data && !visit(off, min(n, data-off), true, true) || off+n <= data {
		return nil
	}
	visit(max(off, data), off+n-max(off, data), false, false)
	return nil
}

func TestExtendedOptions(t *testing.T) {
	extend := func(c *client) { c.mustAck(c.option(optExtendedHeaders, nil)) }
	tables := []struct {
		name   string
		before func(c *client)
		option uint32
		data   []byte
		want   string
	}{
		{"alone", nil, optExtendedHeaders, nil, "ACK"},
		{"twice", extend, optExtendedHeaders, nil, "ACK"},
		{"after structured", func(c *client) { c.mustAck(c.option(optStructuredReply, nil)) }, optExtendedHeaders, nil, "ACK"},
		{"structured comes too late", extend, optStructuredReply, nil, "ERR_EXT_HEADER_REQD"},
		{"contexts need no structured replies", extend, optSetMetaContext, metaQuery("first", "base:allocation"), "CONTEXT 00000001 base:allocation\nACK"},
		{"df is offered", extend, optInfo, infoRequest("first"), "EXPORT 00000000001000000ded\n" + firstSizes + "\nACK"},
		{"and, with contexts, their choice", func(c *client) {
			extend(c)
			c.option(optSetMetaContext, metaQuery("first", "base:allocation"))
		}, optInfo, infoRequest("first"), "EXPORT 00000000001000001ded\n" + firstSizes + "\nACK"},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, negotiationServer(t))
			if tt.before != nil {
				tt.before(c)
			}
			if got := describe(c.option(tt.option, tt.data)); got != tt.want {
				t.Errorf("replies:\n%s\nwant:\n%s", got, tt.want)
			}
			c.chooseExport("first")
			c.must(cmdRead, 0, 0, 512, nil)
		})
	}
	c := dial(t, negotiationServer(t))
	extend(c)
	c.sendOption(optExportName, []byte("first"))
	c.mustBeClosed()
}

// Trims, zeroes and status of any length are one request.
func TestExtendedLengths(t *testing.T) {
	d := &vastDisk{memDisk: newMemDisk(memPage)}
	c := attachExtended(t, serveDisk(t, d))
	if c.size != vastSize {
		t.Fatalf("size is %d, want %d", c.size, int64(vastSize))
	}
	for _, cmd := range []uint16{cmdTrim, cmdWriteZeroes} {
		if r := c.doLong(cmd, cfFUA, 4096, vastSize-4096, nil); r.errno != 0 {
			t.Errorf("command %d over 8 TiB: %v %s", cmd, r.errno, r.text)
		}
	}
	d.mu.Lock()
	if want := []piece{{4096, vastSize - 4096, true}, {4096, vastSize - 4096, true}}; !slices.Equal(d.drops, want) {
		t.Errorf("the device was asked for %v, want %v", d.drops, want)
	}
	d.mu.Unlock()
	if r := c.doLong(cmdBlockStatus, 0, 0, vastSize, nil); !slices.Equal(r.extents, []extent{{vastSize - memPage, holeZero}, {memPage, 0}}) {
		t.Errorf("extents of the whole disk: %v (%v %s)", r.extents, r.errno, r.text)
	}
	if r := c.doLong(cmdCache, 0, 0, 1<<42, nil); r.errno != 0 {
		t.Errorf("cache of 4 TiB: %v %s", r.errno, r.text)
	}
	for _, tt := range []struct {
		name           string
		cmd, flags     uint16
		offset, length uint64
		want           Errno
	}{
		{"trim past the end", cmdTrim, 0, 1, vastSize, EINVAL},
		{"zero past the end", cmdWriteZeroes, 0, 1, vastSize, ENOSPC},
		{"a range that wraps", cmdTrim, 0, 4096, 1<<64 - 4096, EINVAL},
		{"all ones", cmdBlockStatus, 0, 1<<64 - 1, 1<<64 - 1, EINVAL},
		{"a read that wraps 32 bits", cmdRead, 0, 0, 1<<32 + 512, EINVAL},
		{"a write without its flag", cmdWrite, 0, 0, 4096, EINVAL},
		{"a flush of something", cmdFlush, 0, 0, 1 << 40, EINVAL},
		{"an unknown command", 77, 0, 0, 1 << 40, EINVAL},
	} {
		if r := c.doLong(tt.cmd, tt.flags, tt.offset, tt.length, nil); r.errno != tt.want {
			t.Errorf("%s: %v %s, want %v", tt.name, r.errno, r.text, tt.want)
		}
	}
}

// A payload where none belongs is read and refused, and both stay in step.
func TestUnexpectedPayloads(t *testing.T) {
	c := attachExtended(t, serveDisk(t, newMemDisk(1<<20)))
	for _, cmd := range []uint16{cmdRead, cmdFlush, cmdTrim, cmdCache, cmdWriteZeroes, cmdBlockStatus, 77} {
		for _, n := range []int{1, 1000, 300 << 10} {
			if r := c.doLong(cmd, cfPayload, 0, uint64(n), make([]byte, n)); r.errno != EINVAL {
				t.Errorf("command %d with %d bytes of payload: %v, want EINVAL", cmd, n, r.errno)
			}
		}
	}
	if r := c.doLong(cmdWrite, cfPayload, 1<<20, 1000, make([]byte, 1000)); r.errno != ENOSPC {
		t.Errorf("write past the end: %v, want ENOSPC", r.errno)
	}
	if r := c.doLong(cmdWrite, cfPayload, 0, 0, nil); r.errno != 0 {
		t.Errorf("write of nothing: %v", r.errno)
	}
	c.must(cmdWrite, 0, 0, 0, []byte("in step"))
	c.write(encodeExtended(cmdWrite, cfPayload, 1, 0, maxDrainBytes+1, nil))
	c.mustBeClosed()
}

// A BLOCK_STATUS may say by its payload which of the contexts it is about.
func TestStatusQueries(t *testing.T) {
	d := newMemDisk(64 << 10)
	d.markLocked(0, memPage, true)
	path := serveDisk(t, d)
	connect := func(contexts ...string) *client {
		c := dial(t, path)
		c.mustAck(c.option(optExtendedHeaders, nil))
		c.mustAck(c.option(optSetMetaContext, metaQuery("", contexts...)))
		c.chooseExport("")
		return c
	}
	query := func(length uint64, ids ...uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, length)
		for _, id := range ids {
			b = binary.BigEndian.AppendUint32(b, id)
		}
		return b
	}
	states := []extent{{memPage, 0}, {15 * memPage, holeZero}}
	depths := []extent{{memPage, 1}, {15 * memPage, 0}}
	for _, tt := range []struct {
		name           string
		contexts       []string
		payload        []byte
		extents, depth []extent
		want           Errno
	}{
		{"both", []string{"base:allocation", "qemu:allocation-depth"}, query(64<<10, 1, 2), states, depths, 0},
		{"the first", []string{"base:allocation", "qemu:allocation-depth"}, query(64<<10, 1), states, nil, 0},
		{"the second", []string{"base:allocation", "qemu:allocation-depth"}, query(64<<10, 2), nil, depths, 0},
		{"what was not agreed", []string{"base:allocation"}, query(64<<10, 2), nil, nil, EINVAL},
		{"an unknown one", []string{"base:allocation"}, query(64<<10, 9), nil, nil, EINVAL},
		{"twice the same", []string{"base:allocation"}, query(64<<10, 1, 1), nil, nil, EINVAL},
		{"none", []string{"base:allocation"}, query(64 << 10), nil, nil, EINVAL},
		{"too many", []string{"base:allocation"}, query(64<<10, 1, 2, 3), nil, nil, EINVAL},
		{"an odd length", []string{"base:allocation"}, append(query(64<<10, 1), 0), nil, nil, EINVAL},
		{"past the end", []string{"base:allocation"}, query(64<<10+1, 1), nil, nil, EINVAL},
		{"of no length", []string{"base:allocation"}, query(0, 1), nil, nil, EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(tt.contexts...)
			r := c.doLong(cmdBlockStatus, cfPayload, 0, uint64(len(tt.payload)), tt.payload)
			if r.errno != tt.want || !slices.Equal(r.extents, tt.extents) || !slices.Equal(r.depths, tt.depth) {
				t.Errorf("%v %s: extents %v, depths %v; want %v, %v, %v", r.errno, r.text, r.extents, r.depths, tt.want, tt.extents, tt.depth)
			}
			c.must(cmdRead, 0, 0, 512, nil) // in step
		})
	}

	// In pieces, and with requests around it.
	c := connect("base:allocation", "qemu:allocation-depth")
	p := query(64<<10, 2)
	whole := encodeExtended(cmdBlockStatus, cfPayload, 7, 0, uint64(len(p)), p)
	c.offsets[7], c.offsets[8] = 0, 4096
	whole = append(whole, encodeExtended(cmdWrite, cfPayload, 8, 4096, 3, []byte("abc"))...)
	for i := range whole {
		c.write(whole[i : i+1])
	}
	for range 2 {
		if r := c.receive(); r.errno != 0 || r.cookie == 7 && len(r.depths) < 2 {
			t.Errorf("reply %+v", r)
		}
	}
}

// The depth is told to clients without extended headers as well.
func TestAllocationDepth(t *testing.T) {
	d := newMemDisk(64 << 10)
	d.markLocked(2*memPage, memPage, true)
	c := dial(t, serveDisk(t, d))
	c.mustAck(c.option(optStructuredReply, nil))
	c.mustAck(c.option(optSetMetaContext, metaQuery("", "qemu:allocation-depth", "base:allocation")))
	c.chooseExport("")
	r := c.must(cmdBlockStatus, 0, 0, 64<<10, nil)
	if want := []extent{{2 * memPage, 0}, {memPage, 1}, {13 * memPage, 0}}; !slices.Equal(r.depths, want) {
		t.Errorf("depths %v, want %v", r.depths, want)
	}
	if want := []extent{{2 * memPage, holeZero}, {memPage, 0}, {13 * memPage, holeZero}}; !slices.Equal(r.extents, want) {
		t.Errorf("extents %v, want %v", r.extents, want)
	}
}

// A whole exchange, byte by byte, from proto.md by hand: what a client without our code
// would send and see.
func TestExtendedGoldenExchange(t *testing.T) {
	d := newMemDisk(8192)
	d.markLocked(0, memPage, true)
	c := dial(t, serveDisk(t, d))
	for _, step := range []struct{ name, send, want string }{
		{
			"NBD_OPT_EXTENDED_HEADERS",
			"49484156454f5054 0000000b 00000000",
			"0003e889045565a9 0000000b 00000001 00000000",
		},
		{
			"NBD_OPT_SET_META_CONTEXT base:allocation",
			"49484156454f5054 0000000a 0000001b 00000000 00000001 0000000f" + hex.EncodeToString([]byte("base:allocation")),
			"0003e889045565a9 0000000a 00000004 00000013 00000001" + hex.EncodeToString([]byte("base:allocation")) +
				"0003e889045565a9 0000000a 00000001 00000000",
		},
		{
			"NBD_OPT_GO",
			"49484156454f5054 00000007 00000006 00000000 0000",
			"0003e889045565a9 00000007 00000003 0000000c 0000 0000000000002000 1ded" +
				"0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000" +
				"0003e889045565a9 00000007 00000001 00000000",
		},
		{
			"write of 4 bytes at 16",
			"21e41c71 0020 0001 00000000000000aa 0000000000000010 0000000000000004 01020304",
			"6e8a278c 0001 0000 00000000000000aa 0000000000000010 0000000000000000",
		},
		{
			"read of them, in one piece",
			"21e41c71 0004 0000 00000000000000ab 0000000000000010 0000000000000004",
			"6e8a278c 0001 0001 00000000000000ab 0000000000000010 000000000000000c 0000000000000010 01020304",
		},
		{
			"block status",
			"21e41c71 0000 0007 00000000000000ac 0000000000000000 0000000000002000",
			"6e8a278c 0001 0006 00000000000000ac 0000000000000000 0000000000000028 00000001 00000002" +
				"0000000000001000 0000000000000000 0000000000001000 0000000000000003",
		},
		{
			"flush",
			"21e41c71 0000 0003 00000000000000ad 0000000000000000 0000000000000000",
			"6e8a278c 0001 0000 00000000000000ad 0000000000000000 0000000000000000",
		},
	} {
		send, err := hex.DecodeString(strings.ReplaceAll(step.send, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		want, err := hex.DecodeString(strings.ReplaceAll(step.want, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		c.write(send)
		if got := c.read(len(want)); !bytes.Equal(got, want) {
			t.Fatalf("%s: %x, want %x", step.name, got, want)
		}
	}
}
