package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// bothKinds runs f with simple and with structured replies, and with extended headers.
func bothKinds(t *testing.T, f func(t *testing.T, attach func(t testing.TB, path string) *client)) {
	t.Run("simple", func(t *testing.T) { f(t, attach) })
	t.Run("structured", func(t *testing.T) { f(t, attachStructured) })
	t.Run("extended", func(t *testing.T) { f(t, attachExtended) })
}

const testDisk = 1<<20 + 100 // not a multiple of anything

func TestErrors(t *testing.T) {
	const size = testDisk
	data := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	tables := []struct {
		name     string
		readOnly bool
		cmd      uint16
		flags    uint16
		offset   uint64
		length   uint32
		payload  []byte
		want     Errno
	}{
		{name: "read to the last byte", cmd: cmdRead, offset: size - 1, length: 1},
		{name: "read past the end", cmd: cmdRead, offset: size - 1, length: 2, want: EINVAL},
		{name: "read from beyond", cmd: cmdRead, offset: size + 1, length: 1, want: EINVAL},
		{name: "read that overflows", cmd: cmdRead, offset: 1<<64 - 1, length: 2, want: EINVAL},
		{name: "read at 2^63", cmd: cmdRead, offset: 1 << 63, length: 1, want: EINVAL},
		{name: "read nothing", cmd: cmdRead, offset: size},
		{name: "read nothing from beyond", cmd: cmdRead, offset: size + 1, want: EINVAL},
		{name: "read with fua", cmd: cmdRead, flags: cfFUA, length: 100},
		{name: "read too much", cmd: cmdRead, length: 32<<20 + 1, want: EINVAL},
		{name: "read with no-hole", cmd: cmdRead, flags: cfNoHole, length: 1, want: EINVAL},
		{name: "read with an unknown flag", cmd: cmdRead, flags: 1 << 15, length: 1, want: EINVAL},
		{name: "read with payload-len", cmd: cmdRead, flags: cfPayload, length: 1, want: EINVAL},

		{name: "write to the last byte", cmd: cmdWrite, offset: size - 3, payload: data(3)},
		{name: "write past the end", cmd: cmdWrite, offset: size - 2, payload: data(3), want: ENOSPC},
		{name: "large write past the end", cmd: cmdWrite, offset: size - 2, payload: data(2 << 20), want: ENOSPC},
		{name: "write that overflows", cmd: cmdWrite, offset: 1<<64 - 1, payload: data(3), want: ENOSPC},
		{name: "write nothing", cmd: cmdWrite, offset: size, payload: []byte{}},
		{name: "write with fua", cmd: cmdWrite, flags: cfFUA, payload: data(70000)},
		{name: "write with df", cmd: cmdWrite, flags: cfDF, payload: data(5), want: EINVAL},
		{name: "write too much", cmd: cmdWrite, payload: data(32<<20 + 1), want: EINVAL},
		{name: "write read-only", readOnly: true, cmd: cmdWrite, payload: data(70000), want: EPERM},
		{name: "write read-only past the end", readOnly: true, cmd: cmdWrite, offset: size, payload: data(1), want: EPERM},

		{name: "flush", cmd: cmdFlush},
		{name: "flush with fua", cmd: cmdFlush, flags: cfFUA},
		{name: "flush read-only", readOnly: true, cmd: cmdFlush},
		{name: "flush with a length", cmd: cmdFlush, length: 1, want: EINVAL},
		{name: "flush with an offset", cmd: cmdFlush, offset: 1, want: EINVAL},
		{name: "flush with no-hole", cmd: cmdFlush, flags: cfNoHole, want: EINVAL},

		{name: "trim", cmd: cmdTrim, offset: 1, length: size - 1},
		{name: "trim with fua", cmd: cmdTrim, flags: cfFUA, length: 4096},
		{name: "trim past the end", cmd: cmdTrim, offset: 1, length: size, want: EINVAL},
		{name: "trim 4 GiB", cmd: cmdTrim, length: 1<<32 - 1, want: EINVAL},
		{name: "trim nothing", cmd: cmdTrim},
		{name: "trim with no-hole", cmd: cmdTrim, flags: cfNoHole, length: 1, want: EINVAL},
		{name: "trim read-only", readOnly: true, cmd: cmdTrim, length: 1, want: EPERM},

		{name: "zero", cmd: cmdWriteZeroes, offset: 5, length: size - 5},
		{name: "zero with all flags", cmd: cmdWriteZeroes, flags: cfFUA | cfNoHole | cfFastZero, length: 4096},
		{name: "zero past the end", cmd: cmdWriteZeroes, offset: size, length: 1, want: ENOSPC},
		{name: "zero 4 GiB", cmd: cmdWriteZeroes, length: 1<<32 - 1, want: ENOSPC},
		{name: "zero with req-one", cmd: cmdWriteZeroes, flags: cfReqOne, length: 1, want: EINVAL},
		{name: "zero read-only", readOnly: true, cmd: cmdWriteZeroes, length: 1, want: EPERM},

		{name: "cache", cmd: cmdCache, length: size},
		{name: "cache past the end", cmd: cmdCache, length: size + 1, want: EINVAL},
		{name: "cache with df", cmd: cmdCache, flags: cfDF, length: 1, want: EINVAL},

		{name: "resize is not offered", cmd: 8, want: EINVAL},
		{name: "unknown command", cmd: 0xffff, length: 1 << 31, want: EINVAL},
	}
	bothKinds(t, func(t *testing.T, attach func(testing.TB, string) *client) {
		for _, tt := range tables {
			t.Run(tt.name, func(t *testing.T) {
				path := startServer(t, &Server{Exports: []Export{{Device: newMemDisk(size), ReadOnly: tt.readOnly}}})
				c := attach(t, path)
				payload := tt.payload
				if c.extended && tt.flags&cfPayload != 0 {
					payload = make([]byte, tt.length) // the flag says that it follows
				}
				r := c.do(tt.cmd, tt.flags, tt.offset, tt.length, payload)
				if r.errno != tt.want {
					t.Errorf("got %v (%s), want %v", r.errno, r.text, tt.want)
				}
				if c.structured && r.errno != 0 && r.text == "" {
					t.Error("the error chunk has no text")
				}
				if r.errno == 0 && tt.cmd == cmdRead && len(r.data) != int(tt.length) {
					t.Errorf("got %d bytes, want %d", len(r.data), tt.length)
				}
				c.must(cmdRead, 0, 0, 1, nil) // still in step
			})
		}
	})
}

// DF and BLOCK_STATUS exist only with structured replies and a context.
func TestNotOfferedWithoutStructured(t *testing.T) {
	c := attach(t, serveDisk(t, newMemDisk(testDisk)))
	if r := c.do(cmdRead, cfDF, 0, 100, nil); r.errno != EINVAL {
		t.Errorf("read with DF: %v, want EINVAL", r.errno)
	}
	if r := c.do(cmdBlockStatus, 0, 0, 100, nil); r.errno != EINVAL {
		t.Errorf("block status: %v, want EINVAL", r.errno)
	}
}

func TestAlignment(t *testing.T) {
	path := startServer(t, &Server{Exports: []Export{{Device: newMemDisk(1 << 20), MinBlock: 512}}})
	c := attach(t, path)
	for _, tt := range []struct {
		cmd    uint16
		offset uint64
		length uint32
		want   Errno
	}{
		{cmdRead, 512, 1024, 0},
		{cmdRead, 511, 512, EINVAL},
		{cmdRead, 0, 100, EINVAL},
		{cmdTrim, 1, 512, EINVAL},
		{cmdWriteZeroes, 512, 513, EINVAL},
		{cmdFlush, 0, 0, 0},
	} {
		if r := c.do(tt.cmd, 0, tt.offset, tt.length, nil); r.errno != tt.want {
			t.Errorf("command %d at %d length %d: %v, want %v", tt.cmd, tt.offset, tt.length, r.errno, tt.want)
		}
	}
}

func TestTransmissionEndsAt(t *testing.T) {
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"bad request magic", make([]byte, 28)},
		{"refused payload over the limit", encodeRequest(cmdWrite, 0, 1, 0, maxDrainBytes+1, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := newEventLog()
			path := startServer(t, &Server{Exports: []Export{{Device: newMemDisk(testDisk)}}, OnEvent: log.add})
			c := attach(t, path)
			c.write(tt.send)
			c.mustBeClosed()
			if e := log.await(t, ofKind(ConnClosed)); e.Reason != reasonProtocol || e.Err == nil {
				t.Errorf("closed because %q: %v, want %q", e.Reason, e.Err, reasonProtocol)
			}
		})
	}
}

// What came whole before a broken request is done and answered.
func TestRequestsBeforeBadMagic(t *testing.T) {
	d := newMemDisk(testDisk)
	c := attach(t, serveDisk(t, d))
	c.write(append(encodeRequest(cmdWrite, 0, 5, 3, 4, []byte("done")), make([]byte, 28)...))
	if r := c.receive(); r.cookie != 5 || r.errno != 0 {
		t.Errorf("reply %+v, want success of 5", r)
	}
	c.mustBeClosed()
	if got := d.content(3, 4); string(got) != "done" {
		t.Errorf("disk holds %q, want \"done\"", got)
	}
}

// A WRITE that did not come whole never reaches the Device, wherever it is cut.
func TestHalfReceivedWrite(t *testing.T) {
	for _, n := range []int{100, inPlaceBytes, inPlaceBytes + 1, 300 << 10} {
		whole := encodeRequest(cmdWrite, 0, 1, 0, uint32(n), bytes.Repeat([]byte{1}, n))
		for _, cut := range []int{1, 27, 28, 29, len(whole) / 2, len(whole) - 1} {
			t.Run(fmt.Sprintf("%d of %d", cut, len(whole)), func(t *testing.T) {
				d, log := newMemDisk(1<<20), newEventLog()
				path := startServer(t, &Server{Exports: []Export{{Device: d}}, OnEvent: log.add})
				c := attach(t, path)
				c.write(whole[:cut])
				_ = c.nc.Close()
				if e := log.await(t, ofKind(ConnClosed)); e.Reason != reasonLeft {
					t.Errorf("closed because %q (%v), want %q", e.Reason, e.Err, reasonLeft)
				}
				if got := d.writes.Load(); got != 0 {
					t.Errorf("%d writes reached the device", got)
				}
			})
		}
	}
}

// Requests arrive cut into pieces of every size.
func TestAnyCut(t *testing.T) {
	var stream []byte
	for i := range 4 {
		stream = append(stream, encodeRequest(cmdWrite, 0, uint64(i), uint64(i*10), 10, bytes.Repeat([]byte{byte('a' + i)}, 10))...)
	}
	stream = append(stream, encodeRequest(cmdFlush, 0, 9, 0, 0, nil)...)
	for size := 1; size < len(stream); size += 3 {
		d := newMemDisk(testDisk)
		c := attach(t, serveDisk(t, d))
		for rest := stream; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			c.write(rest[:min(size, len(rest))])
		}
		seen := make(map[uint64]bool)
		for range 5 {
			r := c.receive()
			if r.errno != 0 || seen[r.cookie] {
				t.Fatalf("pieces of %d: reply %+v", size, r)
			}
			seen[r.cookie] = true
		}
		if got, want := d.content(0, 40), "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"; string(got) != want {
			t.Fatalf("pieces of %d: disk holds %q", size, got)
		}
	}
}

// firstHeld is a client whose first WRITE waits in the Device until release is closed: what it sends
// meanwhile gathers in the socket.
func firstHeld(t *testing.T) (d *memDisk, c *client, release chan struct{}) {
	t.Helper()
	d, release = newMemDisk(testDisk), make(chan struct{})
	entered := make(chan struct{}, 100)
	d.beforeAdmit = func() { entered <- struct{}{}; <-release }
	c = attach(t, serveDisk(t, d))
	c.send(cmdWrite, 0, 0, 0, []byte("first"))
	<-entered
	return d, c, release
}

// WRITEs that lie in the buffer together become one batch, in their order.
func TestBatch(t *testing.T) {
	d, c, release := firstHeld(t)
	var stream []byte
	for i := range 10 {
		stream = append(stream, encodeRequest(cmdWrite, 0, uint64(100+i), uint64(i), 3, []byte("xyz"))...)
	}
	c.write(stream)
	close(release)
	for range 11 {
		if r := c.receive(); r.errno != 0 {
			t.Fatalf("reply %+v", r)
		}
	}
	if got := d.batches.Load(); got != 2 {
		t.Errorf("%d batches, want 2", got)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, off := range d.order[1:] {
		if off != int64(i) {
			t.Fatalf("writes were admitted in the order %v", d.order)
		}
	}
}

// A READ of other bytes does not divide the batch it came in. One of the same bytes does, and sees
// what was sent before it.
func TestReadPastBatch(t *testing.T) {
	d, c, release := firstHeld(t)
	const before, same, behind = 201, 202, 203
	for _, cookie := range []uint64{before, same, behind} {
		c.lengths[cookie] = 3
	}
	c.write(slices.Concat(
		encodeRequest(cmdWrite, 0, 101, 100, 3, []byte("abc")),
		encodeRequest(cmdRead, 0, before, 97, 3, nil),
		encodeRequest(cmdWrite, 0, 102, 200, 3, []byte("def")),
		encodeRequest(cmdRead, 0, behind, 103, 3, nil),
		encodeRequest(cmdRead, 0, same, 102, 3, nil),
		encodeRequest(cmdWrite, 0, 103, 300, 3, []byte("ghi")),
	))
	close(release)
	want := map[uint64]string{before: "\x00\x00\x00", behind: "\x00\x00\x00", same: "c\x00\x00"}
	for range 7 {
		r := c.receive()
		if data, isRead := want[r.cookie]; r.errno != 0 || isRead && string(r.data) != data {
			t.Errorf("reply %+v, want %q", r, data)
		}
	}
	if got := d.batches.Load(); got != 3 {
		t.Errorf("%d batches, want 3: the first, two before the read of the same bytes, one behind it", got)
	}
	if got := d.cachedReads.Load(); got != 3 {
		t.Errorf("%d reads in place, want 3", got)
	}
}

// What a Device says is told to the client as the right number, and to the operator.
func TestDeviceErrors(t *testing.T) {
	tables := []struct {
		name string
		err  error
		want Errno
	}{
		{"any error", errors.New("head crash"), EIO},
		{"no space", fmt.Errorf("append: %w", syscall.ENOSPC), ENOSPC},
		{"shutting down", fmt.Errorf("disk: %w", ErrShutdown), ESHUTDOWN},
		{"read-only", syscall.EROFS, EPERM},
		{"no memory", syscall.ENOMEM, ENOMEM},
		{"its own number", ownErrno{}, EOVERFLOW},
	}
	type request struct {
		what    string
		cmd     uint16
		flags   uint16
		length  uint32
		payload []byte
	}
	requests := []request{
		{"write", cmdWrite, 0, 0, []byte("x")},
		{"write", cmdWrite, 0, 0, make([]byte, 100<<10)},
		{"write", cmdWrite, cfFUA, 0, []byte("x")},
		{"zero", cmdTrim, 0, 10, nil},
		{"zero", cmdWriteZeroes, 0, 10, nil},
		{"read", cmdRead, 0, 10, nil},
		{"read", cmdRead, 0, 100 << 10, nil},
		{"sync", cmdFlush, 0, 0, nil},
		{"sync", cmdWrite, cfFUA, 0, []byte("x")},
		{"sync", cmdWrite, cfFUA, 0, make([]byte, 100<<10)},
		{"sync", cmdTrim, cfFUA, 10, nil},
		{"sync", cmdWriteZeroes, cfFUA, 10, nil},
		{"extents", cmdBlockStatus, 0, 10, nil},
	}
	bothKinds(t, func(t *testing.T, attach func(testing.TB, string) *client) {
		for _, tt := range tables {
			for _, r := range requests {
				if r.cmd == cmdBlockStatus && strings.HasSuffix(t.Name(), "simple") {
					continue // there is no such request
				}
				t.Run(fmt.Sprintf("%s/command %d flags %d", tt.name, r.cmd, r.flags), func(t *testing.T) {
					d, log := newMemDisk(testDisk), newEventLog()
					d.markLocked(0, testDisk, true) // a hole would not be read
					path := startServer(t, &Server{Exports: []Export{{Device: d}}, OnEvent: log.add})
					d.fail = func(what string) error {
						if what == r.what {
							return tt.err
						}
						return nil
					}
					c := attach(t, path)
					for range 2 {
						if got := c.do(r.cmd, r.flags, 0, r.length, r.payload); got.errno != tt.want {
							t.Fatalf("got %v %s, want %v", got.errno, got.text, tt.want)
						}
					}
					if e := log.await(t, ofKind(RequestFailed)); !errors.Is(e.Err, tt.err) {
						t.Errorf("the operator was told %v, want %v", e.Err, tt.err)
					}
				})
			}
		}
	})
}

type ownErrno struct{}

func (ownErrno) Error() string    { return "my own" }
func (ownErrno) NBDErrno() uint32 { return uint32(EOVERFLOW) }

// FAST_ZERO is the one request that may be told ENOTSUP.
func TestFastZeroUnsupported(t *testing.T) {
	d := newMemDisk(testDisk)
	d.fail = func(what string) error {
		if what == "zero" {
			return errors.ErrUnsupported
		}
		return nil
	}
	c := attach(t, serveDisk(t, d))
	if r := c.do(cmdWriteZeroes, cfFastZero, 0, 10, nil); r.errno != ENOTSUP {
		t.Errorf("fast zero: %v, want ENOTSUP", r.errno)
	}
	if r := c.do(cmdWriteZeroes, 0, 0, 10, nil); r.errno != EIO {
		t.Errorf("zero: %v, want EIO", r.errno)
	}
}

// NO_HOLE keeps the space; without it the space is given back; TRIM reads as zeros.
func TestZeroAndTrim(t *testing.T) {
	for _, tt := range []struct {
		name string
		cmd  uint16
		flag uint16
		held bool
	}{
		{"zero", cmdWriteZeroes, 0, false},
		{"zero without a hole", cmdWriteZeroes, cfNoHole, true},
		{"trim", cmdTrim, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newMemDisk(64 << 10)
			c := attach(t, serveDisk(t, d))
			c.must(cmdWrite, 0, 0, 0, bytes.Repeat([]byte{9}, 16<<10))
			c.must(tt.cmd, tt.flag, 4096, 8192, nil)
			want := append(append(bytes.Repeat([]byte{9}, 4096), make([]byte, 8192)...), bytes.Repeat([]byte{9}, 4096)...)
			if r := c.must(cmdRead, 0, 0, 16<<10, nil); !bytes.Equal(r.data, want) {
				t.Error("the range does not read as zeros, or more does")
			}
			d.mu.Lock()
			held := d.held[1]
			d.mu.Unlock()
			if held != tt.held {
				t.Errorf("space held: %v, want %v", held, tt.held)
			}
		})
	}
}
