package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/nbd/nbdclient"
)

// null starts a null server for the length of a test, and returns its URI.
func null(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "null.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	log, err := preWritten(socket+".log", flushRoom)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait(); log.Close() })
	running.Go(func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { // ends with the connection
				if err := serveNothing(conn, 1<<30, log); err != nil {
					t.Error(err)
				}
			})
		}
	})
	return "nbd+unix:///?socket=" + socket
}

// list is a source of these requests.
func list(all ...request) source {
	return func() (request, bool) {
		if len(all) == 0 {
			return request{}, false
		}
		first := all[0]
		all = all[1:]
		return first, true
	}
}

// Our client and the null server understand each other: every kind of request, in every size that
// there is, many at a time.
func TestClientAndNullServer(t *testing.T) {
	var all []request
	for i := range 2000 {
		lengths := []int{512, 4096, 1 << 20, 70_000}
		all = append(all, request{command: nbdclient.Command(i % 2), offset: int64(i) * 512, length: lengths[i/2%len(lengths)]})
		if i%50 == 0 {
			all = append(all, request{command: nbdclient.Flush}, request{command: nbdclient.Trim, length: 4096})
		}
	}
	for _, depth := range []int{1, 32} {
		got, err := runClient(null(t), depth, list(all...))
		if err != nil {
			t.Fatal(err)
		}
		if got.requests != 2000 || got.reads.total != 1000 || got.writes.total != 1000 || got.flushes != 40 {
			t.Errorf("depth %d: %v requests (%d reads, %d writes), %v flushes; want 2000 (1000, 1000), 40",
				depth, got.requests, got.reads.total, got.writes.total, got.flushes)
		}
	}
}

// A flush each 32 writes is just that, however many are in flight. (fio's is not: see client.go.)
func TestRandomWritesFlush(t *testing.T) {
	l := randomWrites{bytes: 4096, depth: 32, flushEach: 32}
	got, err := runClient(null(t), l.depth, l.source(1<<20, 3200, time.Minute, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got.requests != 3200 || got.flushes != 100 {
		t.Errorf("%v writes and %v flushes, want 3200 and 100", got.requests, got.flushes)
	}
}

// A request that waits for others is not sent before they are answered.
func TestClientKeepsOrder(t *testing.T) {
	c := client{slots: make([]slot, 4), free: []int{0, 1, 2, 3}, data: make([]byte, 8)}
	write := request{command: nbdclient.Write, length: 8}
	waits := request{command: nbdclient.Flush, after: 2}
	c.source = list(write, write, waits)
	c.gather()
	if c.sent != 2 {
		t.Fatalf("%d requests were sent before an answer, want 2", c.sent)
	}
	answer := func(number int) {
		for i := range c.slots {
			if c.slots[i].used && c.slots[i].number == number {
				c.slots[i].used = false
				c.free = append(c.free, i)
			}
		}
		c.out = nil
		c.gather()
	}
	if answer(1); c.sent != 2 {
		t.Error("the flush was sent when only the later of two writes was answered")
	}
	if answer(0); c.sent != 3 {
		t.Error("the flush was not sent when both writes were answered")
	}
}

// As many requests are in flight as the depth says, large ones too: a server that answers none
// gets them all.
func TestClientKeepsDepth(t *testing.T) {
	for _, length := range []int{512, 70_000, 1 << 20} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptTimeval(pair[1], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
		const depth = 8
		var all []request
		for range depth {
			all = append(all, request{command: nbdclient.Write, length: length})
		}
		there := os.NewFile(uintptr(pair[1]), "there")
		c := client{fd: pair[0], slots: make([]slot, depth), in: make([]byte, 1024), data: make([]byte, largestRequest)}
		for i := range depth {
			c.free = append(c.free, i)
		}
		ended := make(chan error, 1)
		go func() { _, err := c.run(list(all...)); ended <- err }() // ends with the connection
		if _, err := io.CopyN(io.Discard, there, int64(depth*(28+length))); err != nil {
			t.Errorf("%d bytes: %v", length, err)
		}
		there.Close()
		if err := <-ended; err == nil {
			t.Error("the server has gone, and the client does not mind")
		}
		unix.Close(c.fd)
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 100_000; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for _, c := range []struct {
		p    float64
		want time.Duration
	}{{50, 50 * time.Millisecond}, {99, 99 * time.Millisecond}, {99.9, 99900 * time.Microsecond}} {
		got := h.percentile(c.p)
		if got > c.want || got < c.want-c.want/50 {
			t.Errorf("p%v = %v, want %v or at most 2 %% less", c.p, got, c.want)
		}
	}
	for _, d := range []time.Duration{0, 1, 63, 64, 127, 128, time.Second, time.Hour} {
		if b := bucket(d); lowest(b) > max(d, 1) || b+1 < len(h.counts) && lowest(b+1) <= d {
			t.Errorf("%v is in bucket %d, which is from %v to %v", d, b, lowest(b), lowest(b+1))
		}
	}
}

// A pass over the whole disk writes each of its pieces once, in order, and ends with a flush.
func TestWholeDisk(t *testing.T) {
	next := wholeDisk{bytes: 4096, depth: 8, flushEach: 3}.source(8 * 4096)
	var got []string
	for r, ok := next(); ok; r, ok = next() {
		if r.command == nbdclient.Flush {
			got = append(got, "flush")
			continue
		}
		got = append(got, fmt.Sprint(r.offset/4096))
	}
	if want := "0 1 2 flush 3 4 5 flush 6 7 flush"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// Connections side by side count together.
func TestJoin(t *testing.T) {
	var a, b tally
	a.requests, b.requests = 1, 3
	a.took, b.took = time.Second, 2*time.Second
	a.writes.add(time.Millisecond)
	for range 3 {
		b.writes.add(time.Second)
	}
	a.join(&b)
	if r := a.result(); r.requests != 4 || r.took != 2*time.Second || r.rate != 2 || r.p50 < 900*time.Millisecond {
		t.Errorf("together %+v", r)
	}
}
