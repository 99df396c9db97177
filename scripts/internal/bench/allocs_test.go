//go:build !race

// The race detector makes every sync.Pool forget at random, so that nothing stays allocated.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd"
	"jnbd/nbd/nbdclient"
)

// What a request allocates in the server, from the socket to the files: nothing, once buffers
// have their size and the blocks that are written are in the overlay.

// allocDisk is the size of the disk; its log holds all that a test writes.
const (
	allocDisk    = 64 << 20
	allocJournal = 256 << 20
)

// served is a client's end of a connection to the server with the engine below, as serve wires
// them.
func served(tb testing.TB, mode jsuper.Mode) net.Conn {
	tb.Helper()
	dir := tb.TempDir()
	open := func(name string, size int64) *disk.File {
		f, err := disk.OpenFile(filepath.Join(dir, name), disk.FileOptions{Create: true, Size: size})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { f.Close() })
		return f
	}
	p := journal.Parts{Backing: open("d.img", allocDisk), Journal: open("d.img.jnbd", allocJournal), Placement: jsuper.Beside}
	if _, err := journal.Format(p, journal.FormatOptions{DiskBytes: allocDisk, JournalBytes: allocJournal, Mode: mode}); err != nil {
		tb.Fatal(err)
	}
	d, err := journal.Open(p, journal.Options{CommitInterval: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	server := &nbd.Server{Exports: []nbd.Export{{Name: "disk", Device: d}}, SlowRequest: time.Hour, OnEvent: func(nbd.Event) {}}
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }() // ends with server.Close
	uri, err := nbdclient.ParseURI("nbd+unix:///disk?socket=" + socket)
	if err != nil {
		tb.Fatal(err)
	}
	h, err := nbdclient.Dial(context.Background(), uri, nbdclient.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	conn, _, err := h.Go(context.Background(), "disk")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := errors.Join(conn.Close(), server.Close())
		if served := <-ended; !errors.Is(served, nbd.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		if err = errors.Join(err, d.Close(context.Background())); err != nil {
			tb.Error(err)
		}
	})
	return conn
}

// volley is a number of requests that are sent at once, and the room for their replies. To send it
// allocates nothing.
type volley struct {
	conn              net.Conn
	requests, replies []byte
	n                 int
}

// newVolley is n requests at different blocks. With flush, a FLUSH follows each of them.
func newVolley(conn net.Conn, command nbdclient.Command, n int) *volley {
	v := &volley{conn: conn, n: n}
	be := binary.BigEndian
	reply := 16
	for i := range n {
		offset, length := uint64(i)*4096, uint32(4096)
		if command == nbdclient.Flush {
			offset, length = 0, 0
		}
		p := be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, requestMagic), 0), uint16(command))
		p = be.AppendUint32(be.AppendUint64(be.AppendUint64(p, uint64(i)), offset), length)
		if command == nbdclient.Write {
			p = append(p, incompressible(4096)...)
		}
		v.requests = append(v.requests, p...)
	}
	if command == nbdclient.Read {
		reply += 4096
	}
	v.replies = make([]byte, n*reply)
	return v
}

func (v *volley) fire(tb testing.TB) {
	if _, err := v.conn.Write(v.requests); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(v.conn, v.replies); err != nil {
		tb.Fatal(err)
	}
	if binary.BigEndian.Uint64(v.replies) != replyMagic<<32 {
		tb.Fatalf("reply %x", v.replies[:16])
	}
}

// allocCases are the requests that must not allocate.
var allocCases = []struct {
	name    string
	command nbdclient.Command
	depth   int
}{
	{"write-depth1", nbdclient.Write, 1},
	{"write-depth32", nbdclient.Write, 32},
	{"read-depth1", nbdclient.Read, 1},
	{"read-depth32", nbdclient.Read, 32},
	{"flush-depth1", nbdclient.Flush, 1},
}

// rehearse brings everything to its size: the blocks of the disk are written, in the log, and
// requests of the kind were served.
func rehearse(tb testing.TB, conn net.Conn, v *volley) {
	newVolley(conn, nbdclient.Write, 64).fire(tb)
	for range 100 {
		v.fire(tb)
	}
	runtime.GC()
}

// TestNoAllocationPerRequest counts what the whole process allocates in a long run. What stays is
// the runtime's own: a goroutine's stack now and then. It comes and goes with what else the machine
// does, so the best of three runs counts.
func TestNoAllocationPerRequest(t *testing.T) {
	const requests = 6400
	for _, mode := range []jsuper.Mode{jsuper.Auto, jsuper.Data} {
		for _, c := range allocCases {
			t.Run(mode.String()+"-"+c.name, func(t *testing.T) {
				conn := served(t, mode)
				v := newVolley(conn, c.command, c.depth)
				rehearse(t, conn, v)
				least := uint64(math.MaxUint64)
				for range 3 {
					least = min(least, allocations(func() {
						for range requests / c.depth {
							v.fire(t)
						}
					}))
				}
				t.Logf("%d allocations for %d requests", least, requests)
				if least > requests/50 {
					t.Errorf("%d allocations for %d requests, want none", least, requests)
				}
			})
		}
	}
}

// allocations is how many there are in the whole process while do runs.
func allocations(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// BenchmarkRequest is a request through socket, server and engine. With -benchmem it tells what one
// allocates; -memprofile says where.
func BenchmarkRequest(b *testing.B) {
	for _, c := range allocCases {
		b.Run(c.name, func(b *testing.B) {
			conn := served(b, jsuper.Auto)
			v := newVolley(conn, c.command, c.depth)
			rehearse(b, conn, v)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += c.depth {
				v.fire(b)
			}
		})
	}
}
