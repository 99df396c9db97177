package nbdclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"jnbd/nbd"
	"jnbd/nbd/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// testDisk is a disk in memory. A block of zeros is a hole.
type testDisk struct {
	syncs atomic.Int64

	mu   sync.Mutex
	data []byte
}

func (d *testDisk) Size() (int64, error) { return int64(len(d.data)), nil }

func (d *testDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.data[off:]), nil
}

func (d *testDisk) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !admit() {
		return nbd.ErrDropped
	}
	for i, p := range data {
		copy(d.data[offsets[i]:], p)
	}
	return nil
}

func (d *testDisk) Zero(off, n int64, _ bool, admit func() bool) error { return d.Trim(off, n, admit) }

func (d *testDisk) Trim(off, n int64, admit func() bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !admit() {
		return nbd.ErrDropped
	}
	clear(d.data[off : off+n])
	return nil
}

func (d *testDisk) Sync() error {
	d.syncs.Add(1)
	return nil
}

func (d *testDisk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for end := off + n; off < end; {
		next := min(off&^4095+4096, end)
		empty := true
		for _, b := range d.data[off:next] {
			empty = empty && b == 0
		}
		if !visit(off, next-off, empty, empty) {
			return nil
		}
		off = next
	}
	return nil
}

// serve serves exports on a unix socket until the test ends, and returns the URI of the
// first one.
func serve(t *testing.T, exports ...nbd.Export) URI {
	t.Helper()
	s := nbdtest.New(t)
	s.Start(exports...)
	return URI{Network: "unix", Address: s.Path(), Export: exports[0].Name}
}

// limited is a context that ends the test's wait.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// connect is Connect that must succeed. The client is closed when the test ends.
func connect(t *testing.T, uri URI, options Options) *Client {
	t.Helper()
	c, err := Connect(limited(t), uri, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
