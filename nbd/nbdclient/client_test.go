package nbdclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"jnbd/nbd"
)

// forms are the ways to talk that a server offers.
var forms = map[string]Options{
	"simple":     {},
	"structured": {Contexts: []string{"base:allocation"}},
}

func TestRequests(t *testing.T) {
	for name, options := range forms {
		t.Run(name, func(t *testing.T) {
			disk := &testDisk{data: make([]byte, 40<<20)}
			c := connect(t, serve(t, nbd.Export{Name: "disk", Description: "a disk", Device: disk}), options)
			info := c.Info()
			if info.Name != "disk" || info.Description != "a disk" || info.Size != 40<<20 ||
				!info.Has(CanFlush|CanFUA|CanTrim|CanZero|CanMultiConn) || info.Has(ReadOnly) ||
				info.MinBlock != 1 || info.PreferredBlock != 4096 || info.MaxBlock != 32<<20 ||
				info.Structured != (name == "structured") {
				t.Fatalf("info is %+v", info)
			}
			want := make([]byte, 35<<20) // more than one request can carry
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(want)
			if n, err := c.WriteAt(want, 1000); n != len(want) || err != nil {
				t.Fatal(n, err)
			}
			must(t, c.Trim(1000, 5000, 0))
			must(t, c.Zero(20000, 100000, FUA))
			clear(want[:5000])
			clear(want[19000:119000])
			must(t, c.Flush())
			if n := disk.syncs.Load(); n < 2 {
				t.Errorf("%d syncs after a FUA and a flush", n)
			}
			got := make([]byte, len(want))
			if n, err := c.ReadAt(got, 1000); n != len(got) || err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes, %v; equal: %v", n, err, bytes.Equal(got, want))
			}
			if n, err := c.ReadAt(got[:100], c.Size()-10); n != 10 || err != io.EOF {
				t.Errorf("read across the end: %d, %v", n, err)
			}
			must(t, c.Disconnect())
			if err := c.Flush(); !errors.Is(err, ErrClosed) {
				t.Errorf("flush after disconnect: %v", err)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	disk := &testDisk{data: make([]byte, 32<<10)}
	copy(disk.data[8192:], "data")
	c := connect(t, serve(t, nbd.Export{Device: disk}), forms["structured"])
	extents, err := c.Status(0, 32<<10, 0)
	must(t, err)
	want := []Extent{{8192, 3}, {4096, 0}, {20480, 3}}
	if got := extents["base:allocation"]; !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
	if extents, err = c.Status(0, 32<<10, ReqOne); err != nil || len(extents["base:allocation"]) != 1 {
		t.Errorf("one extent: %v, %v", extents, err)
	}
}

// Errors name the request and carry the server's number; the connection goes on.
func TestRefusedRequests(t *testing.T) {
	for name, options := range forms {
		t.Run(name, func(t *testing.T) {
			c := connect(t, serve(t, nbd.Export{Device: &testDisk{data: make([]byte, 8192)}, ReadOnly: true}), options)
			for _, r := range []struct {
				request Request
				want    nbd.Errno
			}{
				{Request{Command: Write, Data: []byte("x")}, nbd.EPERM},
				{Request{Command: Read, Offset: 8000, Data: make([]byte, 1000)}, nbd.EINVAL},
				{Request{Command: 77}, nbd.EINVAL},
			} {
				_, err := c.Do(r.request)
				var failed *RequestError
				if !errors.As(err, &failed) || failed.Errno != r.want {
					t.Errorf("%v: %v, want %v", r.request.Command, err, r.want)
				}
			}
			if _, err := c.ReadAt(make([]byte, 10), 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// Many requests under way on one channel, and from many goroutines.
func TestPipelined(t *testing.T) {
	for name, options := range forms {
		t.Run(name, func(t *testing.T) {
			c := connect(t, serve(t, nbd.Export{Device: &testDisk{data: make([]byte, 1<<20)}}), options)
			const n = 256
			done := make(chan *Call, n)
			for i := range n {
				c.Start(Request{Command: Write, Offset: uint64(i) * 4096, Data: bytes.Repeat([]byte{byte(i)}, 4096)}, done)
			}
			for range n {
				must(t, (<-done).Err)
			}
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() {
					p := make([]byte, 4096)
					if _, err := c.ReadAt(p, int64(i)*4096); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(i)}, 4096)) {
						t.Errorf("block %d: %v, begins with %d", i, err, p[0])
					}
				})
			}
			all.Wait()
		})
	}
}

func TestHandshake(t *testing.T) {
	uri := serve(t, nbd.Export{Name: "a", Device: &testDisk{data: make([]byte, 4096)}},
		nbd.Export{Name: "b", Description: "second", Device: &testDisk{data: make([]byte, 8192)}})
	h, err := Dial(limited(t), uri, Options{})
	must(t, err)
	defer h.Close()
	list, err := h.List(limited(t))
	must(t, err)
	if want := []Listed{{"a", ""}, {"b", "second"}}; !slices.Equal(list, want) {
		t.Errorf("list is %v, want %v", list, want)
	}
	if info, err := h.Info(limited(t), "b"); err != nil || info.Size != 8192 || info.Description != "second" {
		t.Errorf("b: %+v, %v", info, err)
	}
	for _, ask := range []func() error{
		func() error { _, err := h.Info(limited(t), "c"); return err },
		func() error { _, _, err := h.Go(limited(t), "c"); return err },
	} {
		var refused *RefusedError
		if err := ask(); !errors.As(err, &refused) || refused.Kind != RefusedUnknown {
			t.Errorf("c: %v", err)
		}
	}
	conn, info, err := h.Go(limited(t), "") // a refusal leaves another try
	must(t, err)
	must(t, h.Close()) // which is the new owner's now
	c := NewClient(conn, info)
	if info.Name != "a" || info.Size != 4096 || c.Flush() != nil {
		t.Errorf("the default export is %+v", info)
	}
	must(t, c.Disconnect())

	h, err = Dial(limited(t), uri, Options{})
	must(t, err)
	must(t, h.Abort(limited(t)))
}

func TestDialFails(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	uri := serve(t, nbd.Export{Device: &testDisk{data: make([]byte, 4096)}})
	if _, err := Dial(ended, uri, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	uri.Address += "x"
	if _, err := Connect(limited(t), uri, Options{}); err == nil {
		t.Error("nobody listens there")
	}
}
