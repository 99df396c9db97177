package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"jnbd/nbd/nbdclient"
)

// Errors that say why a connection does not fit a device.
var (
	// ErrOtherDisk: the server has another disk than the device was attached to.
	ErrOtherDisk = errors.New("another disk")
	// ErrRolledBack: it is the same disk, without some of the writes that were acknowledged.
	ErrRolledBack = errors.New("disk was rolled back")
)

// handshakeTimeout bounds one try to connect: a server that is stopped accepts, and says
// nothing.
const handshakeTimeout = 10 * time.Second

// export is what a server says of the export, as far as it must stay the same.
type export struct {
	size     int64
	flags    nbdclient.Flags
	minBlock uint32
	identity Identity // zero if the server tells none
	seq      uint64   // how far the disk had come; grows with every look
}

// dial makes one connection on which the kernel can go on.
func dial(ctx context.Context, uri nbdclient.URI) (net.Conn, export, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout,
		fmt.Errorf("the server at %s does not answer", uri.Address))
	defer cancel()
	h, err := nbdclient.Dial(ctx, uri, nbdclient.Options{})
	if err != nil {
		return nil, export{}, err
	}
	conn, info, err := h.Go(ctx, uri.Export)
	if err != nil {
		return nil, export{}, errors.Join(err, h.Close())
	}
	return conn, exportOf(info), nil
}

// exportOf picks what counts.
func exportOf(info nbdclient.Info) export {
	e := export{size: info.Size, flags: info.Flags, minBlock: info.MinBlock}
	e.identity, e.seq, _ = ParseIdentity(info.Description)
	return e
}

// ask asks for the export as it is now, without using it.
func ask(ctx context.Context, uri nbdclient.URI) (export, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	h, err := nbdclient.Dial(ctx, uri, nbdclient.Options{})
	if err != nil {
		return export{}, err
	}
	info, err := h.Info(ctx, uri.Export)
	if err != nil {
		return export{}, errors.Join(err, h.Close())
	}
	return exportOf(info), h.Abort(ctx)
}

// mayFollow says why a device that was attached to e can't go on with now.
func (e export) mayFollow(now export) error {
	switch {
	case now.identity.Disk != e.identity.Disk:
		return fmt.Errorf("%w: the server has disk %q, the device is attached to %q; not resumed",
			ErrOtherDisk, now.identity.Disk, e.identity.Disk)
	case now.identity != e.identity:
		return fmt.Errorf("%w: its incarnation is %s, want %s: writes that were acknowledged may be gone; not resumed. "+
			"Unmount, jnbd detach --force, attach again, and check the file system",
			ErrRolledBack, now.identity.Incarnation, e.identity.Incarnation)
	case now.seq < e.seq:
		return fmt.Errorf("%w: it stands at sequence number %d and has been at %d: this is an old copy; not resumed. "+
			"Bring the newer one back, or unmount, jnbd detach --force, attach again, and check the file system",
			ErrRolledBack, now.seq, e.seq)
	case now.size < e.size:
		return fmt.Errorf("%w: the export has %d bytes, the device %d; not resumed", ErrOtherDisk, now.size, e.size)
	case now.flags&nbdclient.ReadOnly != e.flags&nbdclient.ReadOnly:
		return fmt.Errorf("%w: read-only is %v now, and was %v; not resumed", ErrOtherDisk,
			now.flags&nbdclient.ReadOnly != 0, e.flags&nbdclient.ReadOnly != 0)
	}
	if lost := e.flags &^ now.flags; lost != 0 {
		return fmt.Errorf("%w: the server no longer offers what the device relies on (flags %#x); not resumed", ErrOtherDisk, uint16(lost))
	}
	return nil
}

// socket is a connection as the kernel can take it.
func socket(conn net.Conn) (syscall.Conn, error) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T can't be given to the kernel", conn)
	}
	return s, nil
}
