package attach

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/kernel"
)

// EventKind says what happened.
type EventKind int

// What happens to a device.
const (
	LinkDead    EventKind = iota + 1 // a connection died; Err is nil
	Waiting                          // it can't be made anew yet, because of Err
	Reconnected                      // all connections are there again
	Grown                            // the device has Size now
)

// Event is something that an operator may want to know.
type Event struct {
	Kind EventKind
	Err  error
	Size int64 // bytes
}

// Pauses of the supervisor.
const (
	firstPause = 50 * time.Millisecond // after a first failed try to connect
	longPause  = 2 * time.Second       // the longest between two tries
	lookPause  = time.Second           // between two looks whether the device was detached
	askPause   = 10 * time.Second      // between two questions whether the export has grown
)

// Supervise keeps the device going until it is detached, by whomever: then it returns nil.
// When ctx ends it returns ctx's cause and leaves the device as it is. A value from check
// asks at once whether the export has grown.
func (a *Attachment) Supervise(ctx context.Context, check <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	died := make(chan int)
	listening := make(chan error, 1)
	go func() { listening <- a.listen(ctx, died) }() // ends with the Close below
	defer func() {
		cancel()
		_ = a.deaths.Close() // the end of listen
		if listening != nil {
			<-listening
		}
	}()
	look, grow := time.NewTicker(lookPause), time.NewTicker(askPause)
	defer look.Stop()
	defer grow.Stop()
	retry := time.NewTimer(0) // at once, for what takeOver found
	defer retry.Stop()
	var pause time.Duration
	var told string // the last failure that was told
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-listening:
			listening = nil
			return err
		case n := <-died:
			a.event(Event{Kind: LinkDead})
			a.dead = min(a.dead+n, a.connections)
			retry.Reset(0)
			continue
		case <-look.C:
			if a.detached() {
				return nil
			}
			continue
		case <-check:
			a.followSize(ctx)
			continue
		case <-grow.C:
			a.followSize(ctx)
			continue
		case <-retry.C:
		}
		if a.dead == 0 {
			continue
		}
		err := a.reconnect(ctx)
		if err == nil {
			pause, told = 0, ""
			a.event(Event{Kind: Reconnected})
			continue
		}
		if a.detached() {
			return nil
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			told = text
			a.event(Event{Kind: Waiting, Err: err})
		}
		pause = min(max(2*pause, firstPause), longPause)
		retry.Reset(pause)
	}
}

// listen passes on how many of the device's connections have died.
func (a *Attachment) listen(ctx context.Context, died chan<- int) error {
	for {
		dead, err := a.deaths.Next()
		if err != nil {
			return err
		}
		n := 0
		for _, d := range dead {
			switch {
			case d.Missed:
				n = a.connections
			case d.Index == a.options.Index:
				n++
			}
		}
		if n == 0 {
			continue
		}
		select {
		case died <- n:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// event tells.
func (a *Attachment) event(e Event) {
	if a.options.OnEvent != nil {
		a.options.OnEvent(e)
	}
}

// detached reports whether the device was detached: the driver then refuses a change, even
// one that changes nothing. While somebody still uses it, sysfs would not show that.
func (a *Attachment) detached() bool {
	err := a.driver.Reconfigure(a.options.Index, kernel.Change{Backend: a.export.identity.Backend()})
	return errors.Is(err, unix.EINVAL)
}

// reconnect makes the connections anew that have died. An export that has grown makes the
// device grow with it, so that what is sent again fits what is there.
func (a *Attachment) reconnect(ctx context.Context) error {
	var sockets []syscall.Conn
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // the kernel holds those that it took; the others are too many
		}
	}()
	grown := int64(0)
	for len(sockets) < a.dead {
		conn, found, err := dial(ctx, a.options.URI)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
		if err := a.saw(found); err != nil {
			return err
		}
		grown = found.size
		s, err := socket(conn)
		if err != nil {
			return err
		}
		sockets = append(sockets, s)
	}
	change := kernel.Change{Backend: a.export.identity.Backend(), Sockets: sockets}
	if err := a.driver.Reconfigure(a.options.Index, change); err != nil {
		return err
	}
	a.dead = 0
	return a.grow(grown)
}

// saw takes note of how the export is now, or says why the device can't go on with it.
func (a *Attachment) saw(now export) error {
	if err := a.export.mayFollow(now); err != nil {
		return err
	}
	a.export.seq = now.seq
	return nil
}

// followSize makes the device grow if its export has grown. That the server can't be asked
// is no news: if it matters, connections die.
func (a *Attachment) followSize(ctx context.Context) {
	now, err := ask(ctx, a.options.URI)
	if err != nil || a.saw(now) != nil {
		return
	}
	if err := a.grow(now.size); err != nil {
		a.event(Event{Kind: Waiting, Err: err})
	}
}

// grow gives the device the size of its export, if that is more, in whole blocks.
func (a *Attachment) grow(size int64) error {
	size -= size % a.options.BlockSize
	if size <= a.export.size {
		return nil
	}
	if err := Resize(a.driver, a.options.Index, a.export.identity.Backend(), size); err != nil {
		return err
	}
	a.export.size = size
	a.event(Event{Kind: Grown, Size: size})
	return nil
}

// Resize gives an attached device another size, in bytes. backend is what it was attached
// with (kernel.State). Who has it mounted sees it grow.
func Resize(driver Driver, index uint32, backend string, size int64) error {
	return driver.Reconfigure(index, kernel.Change{Backend: backend, Size: size})
}
