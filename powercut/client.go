package powercut

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"jnbd/nbd/nbdclient"
)

// client sends numbered requests, in the order of their numbers, many under way. nbdclient does
// the negotiation.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	size int64

	sendMu sync.Mutex // one request is written at a time
	out    []byte     // guarded by sendMu
}

// Numbers of the protocol (proto.md, "Values").
const (
	nbdRequest     = 0x25609513
	nbdSimpleReply = 0x67446698
	nbdCmdRead     = 0
	nbdCmdWrite    = 1
	nbdCmdFlush    = 3
	nbdCmdTrim     = 4
	nbdCmdZeroes   = 6
	nbdFlagFUA     = 1
)

// dial connects to a unix socket and chooses the default export.
func dial(socket string) (*client, error) {
	ctx := context.Background()
	h, err := nbdclient.Dial(ctx, nbdclient.URI{Network: "unix", Address: socket}, nbdclient.Options{})
	if err != nil {
		return nil, err
	}
	conn, info, err := h.Go(ctx, "")
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 1<<20), size: info.Size}, nil
}

// send sends one request, without waiting for its reply.
func (c *client) send(command, flags uint16, handle uint64, off, n int64, data []byte) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	b := binary.BigEndian.AppendUint32(c.out[:0], nbdRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, handle)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	c.out = append(b, data...)
	_, err := c.conn.Write(c.out)
	return err
}

// receive waits for the next reply, of whichever request. It is for clients without reads.
func (c *client) receive() (handle uint64, err error) {
	var reply struct {
		Magic, Errno uint32
		Handle       uint64
	}
	if err := binary.Read(c.in, binary.BigEndian, &reply); err != nil {
		return 0, err
	}
	if reply.Magic != nbdSimpleReply {
		return 0, fmt.Errorf("bad reply magic %x", reply.Magic)
	}
	if reply.Errno != 0 {
		return reply.Handle, fmt.Errorf("request %d: error %d from the server", reply.Handle, reply.Errno)
	}
	return reply.Handle, nil
}

// readAll is the whole disk. Nothing else may be under way.
func (c *client) readAll() ([]byte, error) {
	content := make([]byte, c.size)
	for off := int64(0); off < c.size; {
		n := min(c.size-off, 1<<20)
		if err := c.send(nbdCmdRead, 0, 1, off, n, nil); err != nil {
			return nil, err
		}
		if _, err := c.receive(); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c.in, content[off:off+n]); err != nil {
			return nil, err
		}
		off += n
	}
	return content, nil
}

// readDisk is what a server says the whole disk is.
func readDisk(socket string) ([]byte, error) {
	c, err := dial(socket)
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	content, err := c.readAll()
	if err != nil {
		return nil, fmt.Errorf("read the disk back: %w", err)
	}
	return content, nil
}
