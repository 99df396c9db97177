// Package attach puts an export under a device of Linux's NBD client and keeps it there,
// while servers come and go.
//
//	attach.go     the way up: negotiate, check, connect
//	wait.go       a server that is not there yet
//	supervise.go  what happens afterwards: connections die and are made anew, exports grow
//	detach.go     the way down
//	dial.go       one connection, and whether a device may go on with it
//	identity.go   which disk it is, and that it has lost nothing
//
// Why a process must stay: the kernel keeps requests while all connections are dead, and
// sends them again on the next one; but only user space can negotiate that one. Should this
// process die as well, the device goes on as long as its connections do, and an Attach of
// the same export takes it over.
package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"

	"jnbd/kernel"
	"jnbd/nbd/nbdclient"
)

// Driver is the kernel's side: kernel.Client.
type Driver interface {
	Connect(kernel.Config) error
	Reconfigure(index uint32, change kernel.Change) error
	Disconnect(index uint32) error
}

// Deaths tells of connections that died: kernel.Watch.
type Deaths interface {
	Next() ([]kernel.Dead, error)
	Close() error
}

// Options say what to attach, and how.
type Options struct {
	URI   nbdclient.URI
	Index uint32 // N of /dev/nbdN
	// Connections is how many to make; more than one need a server that allows it. 0 means
	// one for each processor, up to 4, if the server allows it.
	Connections int
	// BlockSize is the device's sector, in bytes. 0 means 512, or more if the server does not
	// take less.
	BlockSize int64
	// Timeout is how long a request may take before its connection is given up and it is sent
	// again on another.
	Timeout time.Duration
	// DeadTimeout is how long requests wait for a server to come back, before they fail.
	DeadTimeout time.Duration
	// Wait is how long a server that can't be reached yet, or lacks the export, is tried again
	// before the device is attached. 0 means not at all.
	Wait time.Duration
	// OnEvent is told what an operator may want to know, one event after the other.
	OnEvent func(Event)
}

// The defaults of Options.
const (
	DefaultTimeout     = 5 * time.Second
	DefaultDeadTimeout = 5 * time.Minute

	defaultConnections = 4
	defaultBlockSize   = 512
	pageSize           = 4096
)

// Attachment is a device that is attached.
type Attachment struct {
	options     Options
	driver      Driver
	deaths      Deaths
	connections int
	dead        int // connections that are to be made anew
	// export is what the device was attached to; its size grows. While the device is
	// supervised, the one task that is under way has it.
	export export
}

// ErrAttached: the device is attached to something else, or looked after by somebody else.
var ErrAttached = errors.New("device is attached already")

// Attach attaches a device. deaths must have begun to listen before; the Attachment closes
// it. look is kernel.Look. If the device is attached to the same incarnation of the same disk
// already, it is taken over as it is, but for the time limits.
func Attach(ctx context.Context, driver Driver, deaths Deaths, look func(uint32) (kernel.State, error), options Options) (a *Attachment, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, deaths.Close())
		}
	}()
	if options.URI.TLS {
		return nil, errors.New("the kernel's client can't speak TLS: use a unix socket, nbd:// on the loopback, or a tunnel")
	}
	err = awaitServer(ctx, options, func() error {
		a = &Attachment{options: options, driver: driver, deaths: deaths}
		return a.attach(ctx, look)
	})
	return a, err
}

// attach is one try. Nothing is attached when it fails.
func (a *Attachment) attach(ctx context.Context, look func(uint32) (kernel.State, error)) error {
	conn, found, err := dial(ctx, a.options.URI)
	if err != nil {
		return &unreachableError{err}
	}
	defer func() { _ = conn.Close() }() // the kernel has its own hold on it by then
	a.export = found
	state, err := a.awaitReleased(ctx, look)
	if err != nil {
		return fmt.Errorf("look at /dev/nbd%d: %w", a.options.Index, err)
	}
	if err := a.choose(); err != nil {
		return err
	}
	if state.Attached {
		return a.takeOver(state)
	}
	return a.connect(ctx, conn, look)
}

// choose settles what Options leave open, and refuses what the server can't do.
func (a *Attachment) choose() error {
	o := &a.options
	multi := a.export.flags&nbdclient.CanMultiConn != 0
	a.connections = o.Connections
	switch {
	case a.connections == 0 && multi:
		a.connections = min(defaultConnections, runtime.NumCPU())
	case a.connections == 0:
		a.connections = 1
	case a.connections > 1 && !multi:
		return fmt.Errorf("%d connections: the server allows only one for this export", a.connections)
	}
	least := int64(max(defaultBlockSize, a.export.minBlock))
	if o.BlockSize == 0 {
		o.BlockSize = least
	}
	switch {
	case o.BlockSize < least || o.BlockSize > pageSize || o.BlockSize&(o.BlockSize-1) != 0:
		return fmt.Errorf("block size %d: want a power of two from %d to %d", o.BlockSize, least, pageSize)
	case a.export.size < o.BlockSize:
		return fmt.Errorf("the export has %d bytes, less than a block of %d", a.export.size, o.BlockSize)
	}
	return nil
}

// connect gives the kernel conn and as many more as it shall have.
func (a *Attachment) connect(ctx context.Context, conn net.Conn, look func(uint32) (kernel.State, error)) error {
	first, err := socket(conn)
	if err != nil {
		return err
	}
	sockets := []syscall.Conn{first}
	for len(sockets) < a.connections {
		conn, found, err := dial(ctx, a.options.URI)
		if err != nil {
			return &unreachableError{err}
		}
		defer func() { _ = conn.Close() }() // as for the first
		if err := a.saw(found); err != nil {
			return err
		}
		more, err := socket(conn)
		if err != nil {
			return err
		}
		sockets = append(sockets, more)
	}
	config := kernel.Config{
		Index:       a.options.Index,
		Size:        a.export.size - a.export.size%a.options.BlockSize,
		BlockSize:   a.options.BlockSize,
		ServerFlags: uint16(a.export.flags),
		Timeout:     a.options.Timeout,
		DeadTimeout: a.options.DeadTimeout,
		Backend:     a.export.identity.Backend(),
		Sockets:     sockets,
	}
	return retryBusy(ctx, func() error {
		err := a.driver.Connect(config)
		if !errors.Is(err, kernel.ErrBusy) {
			return err
		}
		// Whoever looks at a device that was just detached, as udev does, keeps it from being
		// attached for a moment.
		if state, lookErr := look(config.Index); lookErr == nil && state.Attached {
			return fmt.Errorf("%w: %w", err, ErrAttached)
		}
		return err
	})
}

const (
	busyPatience = 5 * time.Second       // for others to let go of a device
	busyPause    = 50 * time.Millisecond // between two tries
)

// retryBusy calls f until it does something else than to fail with kernel.ErrBusy, for a
// while.
func retryBusy(ctx context.Context, f func() error) error {
	giveUp := time.NewTimer(busyPatience)
	defer giveUp.Stop()
	for {
		err := f()
		if !errors.Is(err, kernel.ErrBusy) || errors.Is(err, ErrAttached) {
			return err
		}
		select {
		case <-giveUp.C:
			return fmt.Errorf("%w: somebody still has it open or mounted; fuser -v names them", err)
		case <-time.After(busyPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitReleased is the state of the device. One that was detached while somebody had it open
// looks attached until he lets go, and can be neither taken over nor attached: whoever only
// looks at it is waited for.
func (a *Attachment) awaitReleased(ctx context.Context, look func(uint32) (kernel.State, error)) (state kernel.State, err error) {
	detached := false
	err = retryBusy(ctx, func() error {
		if state, err = look(a.options.Index); err != nil || !state.Attached {
			return err
		}
		if !detached { // the kernel logs each question
			detached = detachedFrom(a.driver, a.options.Index, state.Backend)
		}
		if detached {
			return fmt.Errorf("it was detached while in use: %w", kernel.ErrBusy)
		}
		return nil
	})
	return state, err
}

// takeOver goes on with a device whose supervisor is gone. Which of its connections live
// can't be known, so as many as it has are offered: the kernel takes one for each dead one.
func (a *Attachment) takeOver(state kernel.State) error {
	backend := a.export.identity.Backend()
	if backend == "" || state.Backend != backend {
		return fmt.Errorf("/dev/nbd%d: %w, to %q; detach it first", a.options.Index, ErrAttached, state.Backend)
	}
	a.connections = max(1, state.Queues)
	a.export.size = state.Size // what is more is a growth, which the supervisor sees
	limits := kernel.Change{Backend: backend, Timeout: a.options.Timeout, DeadTimeout: a.options.DeadTimeout}
	if err := a.driver.Reconfigure(a.options.Index, limits); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	a.dead = a.connections
	return nil
}
