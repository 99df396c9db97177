package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait of the tests' client: a server that hangs fails the test.
const patience = 20 * time.Second

// startServer serves s on a unix socket until the test ends, and returns the socket's path.
func startServer(t testing.TB, s *Server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir's names can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v, want ErrServerClosed", err)
		}
		_ = os.RemoveAll(dir)
	})
	return path
}

// serveDisk serves d alone.
func serveDisk(t testing.TB, d Device) string {
	t.Helper()
	return startServer(t, &Server{Exports: []Export{{Name: "disk", Device: d}}})
}

// client speaks the protocol byte by byte. Its methods fail the test on anything
// unexpected.
type client struct {
	t          testing.TB
	nc         net.Conn
	structured bool
	flags      uint16 // transmission flags
	size       uint64 // of the export
	extended   bool
	lengths    map[uint64]uint32 // READs in flight, by cookie
	offsets    map[uint64]uint64 // requests in flight, by cookie
	lastCookie uint64
}

// dial connects and exchanges greetings.
func dial(t testing.TB, path string) *client {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, nc)
}

// newClient exchanges greetings on nc.
func newClient(t testing.TB, nc net.Conn) *client {
	t.Helper()
	c := &client{t: t, nc: nc, lengths: make(map[uint64]uint32), offsets: make(map[uint64]uint64)}
	t.Cleanup(func() { _ = nc.Close() })
	greeting := c.read(18)
	if string(greeting[:16]) != "NBDMAGICIHAVEOPT" || greeting[16] != 0 || greeting[17] != 3 {
		t.Fatalf("greeting is %x", greeting)
	}
	c.write(be32(3))
	return c
}

// attach dials and chooses the default export, with simple replies.
func attach(t testing.TB, path string) *client {
	t.Helper()
	c := dial(t, path)
	c.chooseExport("")
	return c
}

// attachStructured dials and chooses the default export with structured replies and
// base:allocation.
func attachStructured(t testing.TB, path string) *client {
	t.Helper()
	c := dial(t, path)
	c.mustAck(c.option(optStructuredReply, nil))
	c.mustAck(c.option(optSetMetaContext, metaQuery("", "base:allocation")))
	c.chooseExport("")
	return c
}

// attachExtended is attachStructured with extended headers.
func attachExtended(t testing.TB, path string) *client {
	t.Helper()
	c := dial(t, path)
	c.mustAck(c.option(optExtendedHeaders, nil))
	c.mustAck(c.option(optSetMetaContext, metaQuery("", "base:allocation")))
	c.chooseExport("")
	return c
}

// chooseExport sends GO.
func (c *client) chooseExport(name string) {
	c.t.Helper()
	replies := c.option(optGo, infoRequest(name))
	c.mustAck(replies)
	for _, r := range replies {
		if r.kind == repInfo && binary.BigEndian.Uint16(r.data) == infoExport {
			c.size = binary.BigEndian.Uint64(r.data[2:])
			c.flags = binary.BigEndian.Uint16(r.data[10:])
		}
	}
}

// optionReply is one reply to an option.
type optionReply struct {
	kind uint32
	data []byte
}

// sendOption sends an option without waiting for the answer.
func (c *client) sendOption(option uint32, data []byte) {
	c.t.Helper()
	c.write(bytes.Join([][]byte{[]byte("IHAVEOPT"), be32(option), be32(uint32(len(data))), data}, nil))
}

// option sends an option and returns all its replies, the last of which is an ACK or error.
func (c *client) option(option uint32, data []byte) []optionReply {
	c.t.Helper()
	c.sendOption(option, data)
	var replies []optionReply
	for {
		head := c.read(20)
		if magic := binary.BigEndian.Uint64(head); magic != magicOptionReply {
			c.t.Fatalf("option reply magic is %#x", magic)
		}
		if got := binary.BigEndian.Uint32(head[8:]); got != option {
			c.t.Fatalf("reply is to option %d, want %d", got, option)
		}
		r := optionReply{kind: binary.BigEndian.Uint32(head[12:])}
		r.data = c.read(int(binary.BigEndian.Uint32(head[16:])))
		replies = append(replies, r)
		if r.kind == repAck || r.kind&repErr != 0 {
			c.extended = c.extended || option == optExtendedHeaders && r.kind == repAck
			c.structured = c.structured || c.extended || option == optStructuredReply && r.kind == repAck
			return replies
		}
	}
}

// mustAck fails unless the replies end in ACK.
func (c *client) mustAck(replies []optionReply) {
	c.t.Helper()
	if last := replies[len(replies)-1]; last.kind != repAck {
		c.t.Fatalf("option was refused: %#x %q", last.kind, last.data)
	}
}

// infoRequest is the data of INFO and GO.
func infoRequest(name string, kinds ...uint16) []byte {
	b := append(be32(uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(kinds)))
	for _, k := range kinds {
		b = binary.BigEndian.AppendUint16(b, k)
	}
	return b
}

// metaQuery is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func metaQuery(name string, queries ...string) []byte {
	b := append(be32(uint32(len(name))), name...)
	b = append(b, be32(uint32(len(queries)))...)
	for _, q := range queries {
		b = append(b, be32(uint32(len(q)))...)
		b = append(b, q...)
	}
	return b
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// encodeRequest is a request with its payload.
func encodeRequest(cmd, flags uint16, cookie, offset uint64, length uint32, payload []byte) []byte {
	b := be32(magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, offset)
	return append(append(b, be32(length)...), payload...)
}

// encodeExtended is a request with extended headers, with its payload.
func encodeExtended(cmd, flags uint16, cookie, offset, length uint64, payload []byte) []byte {
	b := be32(magicExtendedRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, offset)
	return append(binary.BigEndian.AppendUint64(b, length), payload...)
}

// send sends a request and returns its cookie. A payload's length overrides length.
func (c *client) send(cmd, flags uint16, offset uint64, length uint32, payload []byte) uint64 {
	c.t.Helper()
	c.lastCookie++
	if payload != nil {
		length = uint32(len(payload))
	}
	if cmd == cmdRead {
		c.lengths[c.lastCookie] = length
	}
	if c.extended {
		if payload != nil || cmd == cmdWrite && length > 0 {
			flags |= cfPayload
		}
		c.offsets[c.lastCookie] = offset
		c.write(encodeExtended(cmd, flags, c.lastCookie, offset, uint64(length), payload))
		return c.lastCookie
	}
	c.write(encodeRequest(cmd, flags, c.lastCookie, offset, length, payload))
	return c.lastCookie
}

// doLong is do with a length of 64 bits, which takes extended headers.
func (c *client) doLong(cmd, flags uint16, offset, length uint64, payload []byte) result {
	c.t.Helper()
	c.lastCookie++
	c.offsets[c.lastCookie] = offset
	c.write(encodeExtended(cmd, flags, c.lastCookie, offset, length, payload))
	return c.receive()
}

// extent is a BLOCK_STATUS extent.
type extent struct {
	length uint64
	flags  uint32
}

// result is a whole reply.
type result struct {
	cookie  uint64
	errno   Errno
	text    string
	data    []byte   // READ
	holes   int      // bytes that came as holes
	extents []extent // base:allocation
	depths  []extent // qemu:allocation-depth
	chunks  int
}

// receive returns the next whole reply. Chunks of different replies may not be mixed here.
func (c *client) receive() result {
	c.t.Helper()
	r, err := c.tryReceive()
	if err != nil {
		c.t.Fatalf("receive a reply: %v", err)
	}
	return r
}

// tryReceive is receive that returns the connection's end as an error.
func (c *client) tryReceive() (result, error) {
	c.t.Helper()
	var r result
	for {
		var magic [4]byte
		if err := c.readInto(magic[:]); err != nil {
			return r, err
		}
		switch binary.BigEndian.Uint32(magic[:]) {
		case magicSimpleReply:
			if c.extended {
				c.t.Fatal("simple reply after extended headers were agreed")
			}
			head := c.read(12)
			r.errno = Errno(binary.BigEndian.Uint32(head))
			r.cookie = binary.BigEndian.Uint64(head[4:])
			n, isRead := c.lengths[r.cookie]
			delete(c.lengths, r.cookie)
			if isRead && r.errno == 0 {
				if c.structured {
					c.t.Fatal("simple reply to READ after structured replies were agreed")
				}
				r.data = c.read(int(n))
			}
			return r, nil
		case magicChunk, magicExtendedChunk:
			if !c.structured || c.extended != (binary.BigEndian.Uint32(magic[:]) == magicExtendedChunk) {
				c.t.Fatal("structured or extended reply that was not agreed")
			}
			if c.chunk(&r) {
				delete(c.lengths, r.cookie)
				delete(c.offsets, r.cookie)
				return r, nil
			}
		default:
			c.t.Fatalf("reply magic is %x", magic)
		}
	}
}

// chunk reads a chunk behind its magic and reports whether it is the reply's last.
func (c *client) chunk(r *result) (done bool) {
	c.t.Helper()
	head := c.read(12)
	flags, kind := binary.BigEndian.Uint16(head), binary.BigEndian.Uint16(head[2:])
	cookie := binary.BigEndian.Uint64(head[4:])
	var p []byte
	if c.extended {
		tail := c.read(16)
		if got, want := binary.BigEndian.Uint64(tail), c.offsets[cookie]; got != want {
			c.t.Fatalf("reply to request %d says it was at %d, want %d", cookie, got, want)
		}
		p = c.read(int(binary.BigEndian.Uint64(tail[8:])))
	} else {
		p = c.read(int(binary.BigEndian.Uint32(c.read(4))))
	}
	if r.chunks > 0 && cookie != r.cookie {
		c.t.Fatalf("chunk of request %d inside the reply to %d", cookie, r.cookie)
	}
	r.cookie = cookie
	r.chunks++
	switch kind {
	case chunkNone:
	case chunkOffsetData:
		r.data = append(r.data, p[8:]...)
	case chunkOffsetHole:
		n := int(binary.BigEndian.Uint32(p[8:]))
		r.data = append(r.data, make([]byte, n)...)
		r.holes += n
	case chunkBlockStatus, chunkBlockStatusExt:
		c.status(r, kind, p)
	case chunkError:
		r.errno = Errno(binary.BigEndian.Uint32(p))
		r.text = string(p[6:])
		if int(binary.BigEndian.Uint16(p[4:])) != len(r.text) {
			c.t.Fatalf("error chunk %x has a wrong length of text", p)
		}
	default:
		c.t.Fatalf("unknown chunk %d", kind)
	}
	return flags&chunkDone != 0
}

// status reads a BLOCK_STATUS chunk's payload.
func (c *client) status(r *result, kind uint16, p []byte) {
	c.t.Helper()
	if c.extended != (kind == chunkBlockStatusExt) {
		c.t.Fatalf("block status in a chunk of kind %d", kind)
	}
	id := binary.BigEndian.Uint32(p)
	p = p[4:]
	var extents []extent
	if c.extended {
		if n := binary.BigEndian.Uint32(p); int(n)*16+4 != len(p) {
			c.t.Fatalf("block status of %d extents in %d bytes", n, len(p))
		}
		for p = p[4:]; len(p) > 0; p = p[16:] {
			extents = append(extents, extent{binary.BigEndian.Uint64(p), uint32(binary.BigEndian.Uint64(p[8:]))})
		}
	} else {
		for ; len(p) > 0; p = p[8:] {
			extents = append(extents, extent{uint64(binary.BigEndian.Uint32(p)), binary.BigEndian.Uint32(p[4:])})
		}
	}
	switch {
	case id == 1 && r.extents == nil:
		r.extents = extents
	case id == 2 && r.depths == nil:
		r.depths = extents
	default:
		c.t.Fatalf("block status for context %d, or twice", id)
	}
}

// do sends a request and returns its reply.
func (c *client) do(cmd, flags uint16, offset uint64, length uint32, payload []byte) result {
	c.t.Helper()
	cookie := c.send(cmd, flags, offset, length, payload)
	r := c.receive()
	if r.cookie != cookie {
		c.t.Fatalf("reply to request %d, want %d", r.cookie, cookie)
	}
	return r
}

// must is do that fails unless the request succeeded.
func (c *client) must(cmd, flags uint16, offset uint64, length uint32, payload []byte) result {
	c.t.Helper()
	r := c.do(cmd, flags, offset, length, payload)
	if r.errno != 0 {
		c.t.Fatalf("command %d at %d: %v %s", cmd, offset, r.errno, r.text)
	}
	return r
}

// mustBeClosed fails unless the server closes the connection, sending nothing before.
func (c *client) mustBeClosed() {
	c.t.Helper()
	var b [1]byte
	err := c.readInto(b[:])
	if err == nil {
		c.t.Fatalf("server sent %#x, want the connection closed", b[0])
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection is still open")
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if err := c.readInto(b); err != nil {
		c.t.Fatalf("read %d bytes from the server: %v", n, err)
	}
	return b
}

func (c *client) readInto(b []byte) error {
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	_, err := io.ReadFull(c.nc, b)
	return err
}

func (c *client) write(b []byte) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write to the server: %v", err)
	}
}

// eventLog collects a server's events.
type eventLog struct {
	mu     sync.Mutex
	events []Event
	added  chan struct{} // capacity 1
}

func newEventLog() *eventLog { return &eventLog{added: make(chan struct{}, 1)} }

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	l.events = append(l.events, e)
	l.mu.Unlock()
	select {
	case l.added <- struct{}{}:
	default:
	}
}

// await returns the first event that is wanted, waiting for it.
func (l *eventLog) await(t testing.TB, wanted func(Event) bool) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		l.mu.Lock()
		for _, e := range l.events {
			if wanted(e) {
				l.mu.Unlock()
				return e
			}
		}
		l.mu.Unlock()
		select {
		case <-l.added:
		case <-ctx.Done():
			t.Fatalf("the awaited event did not come; these did: %+v", l.events)
		}
	}
}

// ofKind wants events of a kind.
func ofKind(k EventKind) func(Event) bool { return func(e Event) bool { return e.Kind == k } }
