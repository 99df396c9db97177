package attach

import (
	"cmp"
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"jnbd/kernel"
	"jnbd/nbd"
	"jnbd/nbd/nbdclient"
	"jnbd/nbd/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// disks are exports with an identity and nothing in them.
type emptyDisk struct {
	mu   sync.Mutex
	size int64
	id   Identity
	seq  uint64
}

func (d *emptyDisk) Size() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size, nil
}

func (d *emptyDisk) describe() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id.Describe(d.seq)
}

func (d *emptyDisk) ReadAt(p []byte, _ int64) (int, error)                        { clear(p); return len(p), nil }
func (d *emptyDisk) WriteBatch([][]byte, []int64, bool, func() bool) error        { return nil }
func (d *emptyDisk) Zero(_, _ int64, _ bool, _ func() bool) error                 { return nil }
func (d *emptyDisk) Trim(_, _ int64, _ func() bool) error                         { return nil }
func (d *emptyDisk) Sync() error                                                  { return nil }
func (d *emptyDisk) Extents(_, _ int64, _ func(_, _ int64, _, _ bool) bool) error { return nil }

// server serves one disk, and can be ended and begun anew.
type server struct{ *nbdtest.Server }

func newServer(t *testing.T) server {
	t.Helper()
	return server{nbdtest.New(t)}
}

func (s server) start(d *emptyDisk) {
	s.Start(nbd.Export{Name: "disk", Device: d, Describe: d.describe})
}

func (s server) uri() nbdclient.URI { return nbdclient.URI{Network: "unix", Address: s.Path()} }

// fakeKernel does what the driver does with a device's sockets: it keeps each as its own,
// notices when one dies, and takes another in its place.
type fakeKernel struct {
	t      *testing.T
	deaths chan kernel.Dead
	closed chan struct{} // the watch's
	tasks  sync.WaitGroup

	mu       sync.Mutex
	config   kernel.Config
	attached bool
	held     int // how often look shows a device that was detached
	busy     int // how often Connect says so
	live     map[net.Conn]bool
	taken    chan struct{} // capacity 1: a reconfigure took sockets
}

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{
		t: t, deaths: make(chan kernel.Dead, 100), closed: make(chan struct{}),
		live: make(map[net.Conn]bool), taken: make(chan struct{}, 1),
	}
	t.Cleanup(func() { _ = k.Disconnect(0); k.tasks.Wait() })
	return k
}

func (k *fakeKernel) Connect(config kernel.Config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy > 0 || k.held > 0 {
		k.busy = max(0, k.busy-1)
		return kernel.ErrBusy
	}
	k.config, k.attached = config, true
	for _, s := range config.Sockets {
		k.takeLocked(s)
	}
	return nil
}

// takeLocked keeps a socket and waits for its end.
func (k *fakeKernel) takeLocked(s syscall.Conn) {
	file, err := s.(*net.UnixConn).File() // a reference of its own
	if err != nil {
		k.t.Error(err)
		return
	}
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		k.t.Error(err)
		return
	}
	k.live[conn] = true
	k.tasks.Go(func() {
		_, _ = conn.Read(make([]byte, 1)) // an idle server sends nothing until it closes
		_ = conn.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.live, conn)
		if k.attached {
			k.deaths <- kernel.Dead{Index: k.config.Index}
		}
	})
}

func (k *fakeKernel) Reconfigure(index uint32, change kernel.Change) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.attached || index != k.config.Index || change.Backend != k.config.Backend {
		return unix.EINVAL
	}
	if change.Size != 0 {
		k.config.Size = change.Size
	}
	k.config.Timeout = cmp.Or(change.Timeout, k.config.Timeout)
	k.config.DeadTimeout = cmp.Or(change.DeadTimeout, k.config.DeadTimeout)
	for _, s := range change.Sockets {
		if len(k.live) < len(k.config.Sockets) {
			k.takeLocked(s)
		}
	}
	if len(change.Sockets) > 0 {
		select {
		case k.taken <- struct{}{}:
		default:
		}
	}
	return nil
}

func (k *fakeKernel) Disconnect(uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attached = false
	for conn := range k.live {
		_ = conn.Close()
	}
	return nil
}

func (k *fakeKernel) look(uint32) (kernel.State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.attached && k.held == 0 {
		return kernel.State{}, nil
	}
	k.held = max(0, k.held-1)
	return kernel.State{Attached: true, Size: k.config.Size, Backend: k.config.Backend, Queues: len(k.config.Sockets)}, nil
}

// Next and Close are the watch.
func (k *fakeKernel) Next() ([]kernel.Dead, error) {
	select {
	case dead := <-k.deaths:
		return []kernel.Dead{{Index: 99}, dead}, nil
	case <-k.closed:
		return nil, os.ErrClosed
	}
}

func (k *fakeKernel) Close() error {
	close(k.closed)
	return nil
}

// rewatch makes the watch a new one, as a new process has it.
func (k *fakeKernel) rewatch() { k.closed = make(chan struct{}) }

// events collects what a supervisor tells.
type events chan Event

func (e events) await(t *testing.T, kind EventKind) Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case event := <-e:
			if event.Kind == kind {
				return event
			}
		case <-deadline:
			t.Fatalf("waited in vain for event %d", kind)
		}
	}
}

// supervised runs Supervise until end is called, which returns what it returned.
func supervised(a *Attachment, check <-chan os.Signal) (end func(cause error) error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Supervise(ctx, check) }() // ends with ctx
	return func(cause error) error {
		if cause != nil {
			cancel(cause)
		}
		defer cancel(nil)
		return <-ended
	}
}
