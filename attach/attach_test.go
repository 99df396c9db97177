package attach

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/kernel"
	"jnbd/nbd"
)

var errEnough = errors.New("enough")

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// attached is a device on a fake kernel, with its server.
func attached(t *testing.T, connections int) (*Attachment, *fakeKernel, server, *emptyDisk, events) {
	t.Helper()
	d := &emptyDisk{size: 1<<20 + 100, id: Identity{disk, "0000000000000001"}, seq: 10}
	s, k, told := newServer(t), newFakeKernel(t), make(events, 100)
	s.start(d)
	a, err := Attach(limited(t), k, k, k.look, Options{
		URI: s.uri(), Connections: connections, Timeout: time.Second, DeadTimeout: time.Minute,
		OnEvent: func(e Event) { told <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, k, s, d, told
}

// TestServerComesBack: the server goes and comes back, with as many connections as before.
func TestServerComesBack(t *testing.T) {
	a, k, s, d, told := attached(t, 3)
	if c := k.config; c.Size != 1<<20 || c.BlockSize != 512 || len(c.Sockets) != 3 || c.Backend != disk+"/0000000000000001" {
		t.Fatalf("the kernel was told %+v", c)
	}
	end := supervised(a, nil)
	for range 3 {
		s.Stop()
		told.await(t, LinkDead)
		if e := told.await(t, Waiting); !errors.Is(e.Err, unix.ENOENT) && !errors.Is(e.Err, unix.ECONNREFUSED) {
			t.Errorf("without a server: %v", e.Err)
		}
		s.start(d)
		told.await(t, Reconnected)
		k.awaitLive(3)
	}
	if err := end(errEnough); !errors.Is(err, errEnough) {
		t.Errorf("supervise: %v", err)
	}
}

// awaitLive waits until the device has that many connections.
func (k *fakeKernel) awaitLive(n int) {
	k.t.Helper()
	deadline := time.After(patience)
	for {
		k.mu.Lock()
		live := len(k.live)
		k.mu.Unlock()
		if live == n {
			return
		}
		select {
		case <-k.taken:
		case <-time.After(busyPause):
		case <-deadline:
			k.t.Fatalf("the device has %d connections, want %d", live, n)
		}
	}
}

// TestNeverOnAnotherDisk: a server that comes back with another disk, with another
// incarnation, or with an old copy gets no request. The right one does.
func TestNeverOnAnotherDisk(t *testing.T) {
	a, k, s, d, told := attached(t, 1)
	end := supervised(a, nil)
	for _, c := range []struct {
		disk *emptyDisk
		want error
	}{
		{&emptyDisk{size: d.size, id: Identity{other, d.id.Incarnation}, seq: 10}, ErrOtherDisk},
		{&emptyDisk{size: d.size, id: Identity{disk, "0000000000000002"}, seq: 10}, ErrRolledBack},
		{&emptyDisk{size: d.size, id: d.id, seq: 9}, ErrRolledBack},
		{&emptyDisk{size: d.size - 512, id: d.id, seq: 10}, ErrOtherDisk},
	} {
		s.Stop()
		s.start(c.disk)
		for !errors.Is(told.await(t, Waiting).Err, c.want) {
		}
		k.mu.Lock()
		if len(k.live) != 0 {
			t.Errorf("the device goes on with %+v", c.disk.id)
		}
		k.mu.Unlock()
	}
	s.Stop()
	s.start(d)
	told.await(t, Reconnected)
	_ = end(errEnough)
}

// TestGrows: the device follows its export, in whole blocks, at once when it is asked to.
func TestGrows(t *testing.T) {
	a, k, _, d, told := attached(t, 1)
	check := make(chan os.Signal, 1)
	end := supervised(a, check)
	d.mu.Lock()
	d.size = 2<<20 + 511
	d.mu.Unlock()
	check <- unix.SIGUSR1
	if e := told.await(t, Grown); e.Size != 2<<20 {
		t.Errorf("grown to %d", e.Size)
	}
	if state, _ := k.look(0); state.Size != 2<<20 {
		t.Errorf("the device has %d bytes", state.Size)
	}
	_ = end(errEnough)
}

// TestDetachedByOthers: the supervisor ends by itself.
func TestDetachedByOthers(t *testing.T) {
	a, k, _, _, _ := attached(t, 2)
	end := supervised(a, nil)
	if err := k.Disconnect(0); err != nil {
		t.Fatal(err)
	}
	if err := end(nil); err != nil {
		t.Errorf("supervise: %v", err)
	}
}

// TestTakeOver: a device whose supervisor is gone is taken over, with connections that died
// meanwhile made anew, and with the time limits of the new one. One of another disk is not.
func TestTakeOver(t *testing.T) {
	a, k, s, d, _ := attached(t, 2)
	_ = supervised(a, nil)(errEnough)
	s.Stop()
	k.awaitLive(0)
	s.start(d)

	again := func() (*Attachment, events, error) {
		k.rewatch()
		told := make(events, 100)
		a, err := Attach(limited(t), k, k, k.look, Options{
			URI: s.uri(), Timeout: time.Minute, DeadTimeout: time.Hour, OnEvent: func(e Event) { told <- e },
		})
		return a, told, err
	}
	a, told, err := again()
	if err != nil {
		t.Fatal(err)
	}
	end := supervised(a, nil)
	told.await(t, Reconnected)
	k.awaitLive(2)
	_ = end(errEnough)
	if k.config.Timeout != time.Minute || k.config.DeadTimeout != time.Hour {
		t.Errorf("time limits are %v and %v", k.config.Timeout, k.config.DeadTimeout)
	}

	d.id.Incarnation = "0000000000000002"
	if _, _, err := again(); !errors.Is(err, ErrAttached) {
		t.Errorf("take over with another incarnation: %v", err)
	}
}

// TestBusy: a device that others hold open for a moment is waited for, also when they did so while
// it was detached.
func TestBusy(t *testing.T) {
	s, k := newServer(t), newFakeKernel(t)
	s.start(&emptyDisk{size: 4096})
	k.busy, k.held = 3, 3
	if _, err := Attach(limited(t), k, k, k.look, Options{URI: s.uri()}); err != nil {
		t.Fatal(err)
	}
	_ = k.Close()
}

// TestWaitsForServer: with Wait a server that is not there, and one that has not the export yet,
// is tried again, and told of; the device is attached once it is there, and not before.
func TestWaitsForServer(t *testing.T) {
	s, k, told := newServer(t), newFakeKernel(t), make(events, 100)
	options := Options{URI: s.uri(), Wait: time.Hour, OnEvent: func(e Event) { told <- e }}
	options.URI.Export = "late"
	attached := make(chan error, 1)
	go func() { // ends with the context
		_, err := Attach(limited(t), k, k, k.look, options)
		attached <- err
	}()
	if e := told.await(t, NoServer); !errors.Is(e.Err, unix.ENOENT) {
		t.Errorf("without a server: %v", e.Err)
	}
	s.start(&emptyDisk{size: 4096})
	if e := told.await(t, NoServer); e.Err == nil || !strings.Contains(e.Err.Error(), "there is no export") {
		t.Errorf("without the export: %v", e.Err)
	}
	if state, _ := k.look(0); state.Attached {
		t.Error("attached without the export")
	}
	s.Add(nbd.Export{Name: "late", Device: &emptyDisk{size: 8192}})
	if err := <-attached; err != nil || k.config.Size != 8192 {
		t.Errorf("with the export: %v, a device of %d bytes", err, k.config.Size)
	}
	_ = k.Close()
}

// TestWaitEnds: when the time is over, or somebody ends it. What no server can mend is not
// waited for.
func TestWaitEnds(t *testing.T) {
	s := newServer(t)
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errEnough)
	for _, c := range []struct {
		name    string
		ctx     context.Context
		options Options
		served  bool
		want    string
	}{
		{"at once", t.Context(), Options{}, false, "no such file"},
		{"in time", t.Context(), Options{Wait: time.Millisecond}, false, "no server after 1ms: "},
		{"by others", over, Options{Wait: time.Hour}, false, errEnough.Error()},
		{"refused", t.Context(), Options{Wait: time.Hour, BlockSize: 1000}, true, "power of two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.served {
				s.start(&emptyDisk{size: 4096})
			}
			k := newFakeKernel(t)
			c.options.URI = s.uri()
			ended := make(chan error, 1)
			go func() { // ends with the wait
				_, err := Attach(c.ctx, k, k, k.look, c.options)
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			case <-time.After(patience):
				t.Fatal("it waits on")
			}
		})
	}
}

// TestAttachRefuses: what can't work is said before anything is attached.
func TestAttachRefuses(t *testing.T) {
	s := newServer(t)
	s.start(&emptyDisk{size: 4096, id: Identity{disk, "0000000000000001"}})
	for _, c := range []struct {
		name   string
		change func(*Options, *fakeKernel)
		want   string
	}{
		{"tls", func(o *Options, _ *fakeKernel) { o.URI.TLS = true }, "can't speak TLS"},
		{"no server", func(o *Options, _ *fakeKernel) { o.URI.Address += "x" }, "no such file"},
		{"no such export", func(o *Options, _ *fakeKernel) { o.URI.Export = "none" }, "there is no export"},
		{"block size", func(o *Options, _ *fakeKernel) { o.BlockSize = 1000 }, "power of two"},
		{"block size above a page", func(o *Options, _ *fakeKernel) { o.BlockSize = 8192 }, "512 to 4096"},
		{"attached to another", func(_ *Options, k *fakeKernel) {
			k.attached, k.config.Backend = true, "another"
		}, `attached already, to "another"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel(t)
			options := Options{URI: s.uri()}
			c.change(&options, k)
			_, err := Attach(limited(t), k, k, k.look, options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			select {
			case <-k.closed:
			default:
				t.Error("the watch is left open")
			}
		})
	}
	var _ Driver = (*kernel.Client)(nil)
	var _ Deaths = (*kernel.Watch)(nil)
}
