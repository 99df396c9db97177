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
	NoServer                         // it can't be attached yet, because of Err
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

// outcome is what became of a task: a try to reconnect, or a question for the size.
type outcome struct {
	tried bool  // it was a try to reconnect
	left  int   // connections that could not be made anew
	grown int64 // the device's new size in bytes, or 0
	err   error
}

// Supervise keeps the device going until it is detached, by whomever: then it returns nil.
// When ctx ends it returns ctx's cause and leaves the device as it is. A value from check
// asks at once whether the export has grown.
func (a *Attachment) Supervise(ctx context.Context, check <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	died := make(chan int)
	listening := make(chan error, 1)
	go func() { listening <- a.listen(ctx, died) }() // ends with the Close below
	// A server may hang, and a task with it, for as long as a handshake may take. Whether the
	// device was detached must be seen meanwhile.
	done := make(chan outcome, 1)
	busy := false
	begin := func(task func(context.Context) outcome) {
		busy = true
		go func() { done <- task(ctx) }() // ends with ctx at the latest; waited for below
	}
	defer func() {
		cancel()
		_ = a.deaths.Close() // the end of listen
		if listening != nil {
			<-listening
		}
		if busy {
			<-done
		}
	}()
	look, ask := time.NewTicker(lookPause), time.NewTicker(askPause)
	defer look.Stop()
	defer ask.Stop()
	retry := time.NewTimer(0) // at once, for what takeOver found
	defer retry.Stop()
	due, grow := false, false // to try to reconnect; to ask for the size
	var pause time.Duration
	var told string // the last failure that was told
	for {
		switch {
		case busy:
		case due && a.dead > 0:
			due = false
			dead := a.dead
			a.dead = 0 // one that dies from now on is another one
			begin(func(ctx context.Context) outcome { return a.reconnect(ctx, dead) })
		case grow && a.dead == 0:
			grow = false
			begin(a.followSize)
		}
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
		case <-look.C:
			if a.detached() {
				return nil
			}
		case <-retry.C:
			due = true
		case <-check:
			grow = true
		case <-ask.C:
			grow = true
		case o := <-done:
			busy = false
			if o.grown != 0 {
				a.event(Event{Kind: Grown, Size: o.grown})
			}
			a.dead = min(a.dead+o.left, a.connections)
			if o.err == nil {
				pause, told = 0, ""
				if o.tried {
					a.event(Event{Kind: Reconnected})
				}
				due = a.dead > 0
				continue
			}
			if a.detached() {
				return nil
			}
			if text := o.err.Error(); text != told && ctx.Err() == nil {
				told = text
				a.event(Event{Kind: Waiting, Err: o.err})
			}
			if o.tried {
				pause = min(max(2*pause, firstPause), longPause)
				retry.Reset(pause)
			}
		}
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
func (a *Attachment) event(e Event) { a.options.event(e) }

func (o Options) event(e Event) {
	if o.OnEvent != nil {
		o.OnEvent(e)
	}
}

// detached reports whether the device was detached: the driver then refuses a change, even
// one that changes nothing. While somebody still uses it, sysfs would not show that.
func (a *Attachment) detached() bool {
	return detachedFrom(a.driver, a.options.Index, a.export.identity.Backend())
}

func detachedFrom(driver Driver, index uint32, backend string) bool {
	return errors.Is(driver.Reconfigure(index, kernel.Change{Backend: backend}), unix.EINVAL)
}

// reconnect makes the connections anew that have died. An export that has grown makes the
// device grow with it.
func (a *Attachment) reconnect(ctx context.Context, dead int) outcome {
	var sockets []syscall.Conn
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // the kernel holds those that it took; the others are too many
		}
	}()
	failed := func(err error) outcome { return outcome{tried: true, left: dead, err: err} }
	size := int64(0)
	for range dead {
		conn, found, err := dial(ctx, a.options.URI)
		if err != nil {
			return failed(err)
		}
		conns = append(conns, conn)
		if err := a.saw(found); err != nil {
			return failed(err)
		}
		size = found.size
		s, err := socket(conn)
		if err != nil {
			return failed(err)
		}
		sockets = append(sockets, s)
	}
	change := kernel.Change{Backend: a.export.identity.Backend(), Sockets: sockets}
	if err := a.driver.Reconfigure(a.options.Index, change); err != nil {
		return failed(err)
	}
	grown, err := a.grow(size)
	return outcome{tried: true, grown: grown, err: err}
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
func (a *Attachment) followSize(ctx context.Context) outcome {
	now, err := ask(ctx, a.options.URI)
	if err != nil || a.saw(now) != nil {
		return outcome{}
	}
	grown, err := a.grow(now.size)
	return outcome{grown: grown, err: err}
}

// grow gives the device the size of its export in whole blocks, if that is more, and returns
// it then.
func (a *Attachment) grow(size int64) (grown int64, err error) {
	size -= size % a.options.BlockSize
	if size <= a.export.size {
		return 0, nil
	}
	if err := Resize(a.driver, a.options.Index, a.export.identity.Backend(), size); err != nil {
		return 0, err
	}
	a.export.size = size
	return size, nil
}

// Resize gives an attached device another size, in bytes. backend is what it was attached
// with (kernel.State). Who has it mounted sees it grow.
func Resize(driver Driver, index uint32, backend string, size int64) error {
	return driver.Reconfigure(index, kernel.Change{Backend: backend, Size: size})
}
