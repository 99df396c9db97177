package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// Requests in the benchmarks and the allocation test: as many as a client keeps in flight.
const benchDepth, benchBytes = 32, 4096

// pipeliner sends the same requests again and again and takes the replies, without an
// allocation of its own.
type pipeliner struct {
	tb       testing.TB
	nc       net.Conn
	requests []byte
	replies  []byte
}

// newPipeliner attaches to a server of d.
func newPipeliner(tb testing.TB, d Device, cmd uint16) *pipeliner {
	c := attach(tb, serveDisk(tb, d))
	p := &pipeliner{tb: tb, nc: c.nc}
	var payload []byte
	reply := simpleReplySize
	if cmd == cmdWrite {
		payload = make([]byte, benchBytes)
	} else {
		reply += benchBytes
	}
	for i := range benchDepth {
		offset := uint64(i*7919%64) * benchBytes
		p.requests = append(p.requests, encodeRequest(cmd, 0, uint64(i), offset, benchBytes, payload)...)
	}
	p.replies = make([]byte, benchDepth*reply)
	return p
}

// round sends all requests and takes all replies.
func (p *pipeliner) round() {
	if _, err := p.nc.Write(p.requests); err != nil {
		p.tb.Fatal(err)
	}
	if _, err := io.ReadFull(p.nc, p.replies); err != nil {
		p.tb.Fatal(err)
	}
	if binary.BigEndian.Uint32(p.replies) != magicSimpleReply || binary.BigEndian.Uint32(p.replies[4:]) != 0 {
		p.tb.Fatalf("reply %x", p.replies[:simpleReplySize])
	}
}

// quietDisk is a memDisk without the bookkeeping that allocates.
type quietDisk struct{ *memDisk }

func (d quietDisk) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	if !admit() {
		return ErrDropped
	}
	for i, p := range data {
		copy(d.data[offsets[i]:], p)
	}
	return nil
}

func benchmark(b *testing.B, cmd uint16) {
	p := newPipeliner(b, quietDisk{newMemDisk(1 << 20)}, cmd)
	_ = p.nc.SetDeadline(noDeadline)
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += benchDepth {
		p.round()
	}
}

// One operation is one request.
func BenchmarkWrite4K(b *testing.B) { benchmark(b, cmdWrite) }
func BenchmarkRead4K(b *testing.B)  { benchmark(b, cmdRead) }

// In the steady state neither a small write nor a cached read allocates.
func TestNoAllocations(t *testing.T) {
	for _, cmd := range []uint16{cmdWrite, cmdRead} {
		p := newPipeliner(t, quietDisk{newMemDisk(1 << 20)}, cmd)
		_ = p.nc.SetDeadline(noDeadline)
		for range 100 { // buffers grow to their size
			p.round()
		}
		if n := testing.AllocsPerRun(200, p.round); n > 1 {
			t.Errorf("command %d: %v allocations for %d requests, want none", cmd, n, benchDepth)
		}
	}
}
