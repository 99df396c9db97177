// Package kernel speaks to Linux's NBD client: the nbd driver's generic netlink family, as
// linux/nbd-netlink.h and drivers/block/nbd.c have it, and what the driver shows in sysfs.
//
//	client.go   the family, and the requests: connect, reconfigure, disconnect
//	watch.go    the driver's word that a connection has died
//	device.go   which device is attached, and whether somebody uses it
//
// The driver is given sockets on which an NBD handshake has been made. It keeps a reference
// of its own to each: closing ours ends nothing.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What the driver's refusals mean, for errors.Is.
var (
	// ErrNoDriver: the kernel has no nbd driver loaded.
	ErrNoDriver = errors.New("the kernel's nbd driver is not loaded: run modprobe nbd")
	// ErrNotAllowed: the caller lacks CAP_SYS_ADMIN.
	ErrNotAllowed = errors.New("not allowed: this needs root (CAP_SYS_ADMIN)")
	// ErrBusy: the device is attached, or somebody holds it open since it was.
	ErrBusy = errors.New("device is busy")
)

// linux/nbd-netlink.h.
const (
	familyName = "nbd"
	groupName  = "nbd_mc_group"

	commandConnect     = 1
	commandDisconnect  = 2
	commandReconfigure = 3
	commandLinkDead    = 4

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadTimeout = 8
	attrBackend     = 10

	attrSocketItem = 1
	attrSocketFD   = 1
)

// Client asks the driver. Its methods may be called at the same time.
type Client struct {
	conn   *genetlink.Conn
	family genetlink.Family
}

// Open looks for the driver. The error is ErrNoDriver if it is not there.
func Open() (*Client, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	family, err := conn.GetFamily(familyName)
	if err == nil {
		return &Client{conn: conn, family: family}, nil
	}
	_ = conn.Close() // nothing was asked
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoDriver
	}
	return nil, fmt.Errorf("ask for the nbd driver: %w", err)
}

// Close ends the client. What was connected stays so.
func (c *Client) Close() error { return c.conn.Close() }

// Config is how a device is attached.
type Config struct {
	Index       uint32 // N of /dev/nbdN
	Size        int64  // bytes
	BlockSize   int64  // of a sector: a power of two from 512 to a page
	ServerFlags uint16 // the export's transmission flags
	// Timeout is how long a request may take before the driver gives its connection up and
	// sends it on another; whole seconds, and never 0, which would be for ever.
	Timeout time.Duration
	// DeadTimeout is how long requests wait for a new connection when all have died, before
	// they fail; whole seconds.
	DeadTimeout time.Duration
	// Backend is the identifier that every Reconfigure must repeat; empty for none.
	Backend string
	// Sockets are the connections. Several need a server that allows it.
	Sockets []syscall.Conn
}

// Connect attaches a device. It is there, with its size, when Connect returns. ErrBusy says
// that it is attached, or still held by who used it before.
func (c *Client) Connect(config Config) error {
	err := withSockets(config.Sockets, func(fds []uint32) error {
		return c.ask(commandConnect, netlink.Request, func(ae *netlink.AttributeEncoder) {
			ae.Uint32(attrIndex, config.Index)
			ae.Uint64(attrSize, uint64(config.Size))
			ae.Uint64(attrBlockSize, uint64(config.BlockSize))
			ae.Uint64(attrTimeout, seconds(config.Timeout))
			ae.Uint64(attrDeadTimeout, seconds(config.DeadTimeout))
			ae.Uint64(attrServerFlags, uint64(config.ServerFlags))
			if config.Backend != "" {
				ae.String(attrBackend, config.Backend)
			}
			sockets(ae, fds)
		})
	})
	if err != nil {
		return fmt.Errorf("attach /dev/nbd%d: %w", config.Index, err)
	}
	return nil
}

// Change is what Reconfigure changes.
type Change struct {
	Backend string         // as Connect was told
	Sockets []syscall.Conn // in the place of dead connections; what is too much is not taken
	Size    int64          // bytes; 0 leaves it
	// Timeout is for requests that begin from now on, DeadTimeout for all, as in Config; 0 leaves it.
	Timeout, DeadTimeout time.Duration
}

// Reconfigure changes a device that is attached.
func (c *Client) Reconfigure(index uint32, change Change) error {
	err := withSockets(change.Sockets, func(fds []uint32) error {
		return c.ask(commandReconfigure, netlink.Request|netlink.Acknowledge, func(ae *netlink.AttributeEncoder) {
			ae.Uint32(attrIndex, index)
			if change.Backend != "" {
				ae.String(attrBackend, change.Backend)
			}
			if change.Size != 0 {
				ae.Uint64(attrSize, uint64(change.Size))
			}
			if change.Timeout != 0 {
				ae.Uint64(attrTimeout, seconds(change.Timeout))
			}
			if change.DeadTimeout != 0 {
				ae.Uint64(attrDeadTimeout, seconds(change.DeadTimeout))
			}
			if len(fds) > 0 {
				sockets(ae, fds)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("reconfigure /dev/nbd%d: %w", index, err)
	}
	return nil
}

// Disconnect detaches a device, whoever uses it: requests under way, and all that follow,
// fail. It returns when none is under way any more.
func (c *Client) Disconnect(index uint32) error {
	err := c.ask(commandDisconnect, netlink.Request|netlink.Acknowledge, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(attrIndex, index)
	})
	if err != nil {
		return fmt.Errorf("detach /dev/nbd%d: %w", index, err)
	}
	return nil
}

// ask sends a command. The driver replies to connect by itself, to others only with the
// acknowledgement that flags ask for.
func (c *Client) ask(command uint8, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	fill(ae)
	data, err := ae.Encode()
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	message := genetlink.Message{
		Header: genetlink.Header{Command: command, Version: c.family.Version},
		Data:   data,
	}
	_, err = c.conn.Execute(message, c.family.ID, flags)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ErrNotAllowed
	case errors.Is(err, unix.EBUSY):
		return ErrBusy
	}
	return err
}

// sockets encodes a list of sockets.
func sockets(ae *netlink.AttributeEncoder, fds []uint32) {
	ae.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range fds {
			list.Nested(attrSocketItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(attrSocketFD, fd)
				return nil
			})
		}
		return nil
	})
}

// withSockets calls f while the sockets' descriptors can't be closed.
func withSockets(conns []syscall.Conn, f func(fds []uint32) error) error {
	return withRest(conns, nil, f)
}

func withRest(conns []syscall.Conn, fds []uint32, f func([]uint32) error) error {
	if len(conns) == 0 {
		return f(fds)
	}
	raw, err := conns[0].SyscallConn()
	if err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withRest(conns[1:], append(fds, uint32(fd)), f) })
	if err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	return inner
}

// seconds rounds up.
func seconds(d time.Duration) uint64 {
	return uint64((d + time.Second - 1) / time.Second)
}
