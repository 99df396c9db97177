package main

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

// client sends requests as a test wants them, and tells handles and error numbers: one that
// stops reading, or dies in the middle. nbdclient does the rest. One goroutine may send while
// another receives.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	size uint64

	mu    sync.Mutex
	reads map[uint64]int // length of the reads under way, by handle
}

// Numbers of the protocol (proto.md, "Values").
const (
	nbdRequest     = 0x25609513
	nbdSimpleReply = 0x67446698
	nbdCmdRead     = 0
	nbdCmdWrite    = 1
	nbdCmdDisc     = 2
	nbdCmdFlush    = 3
	nbdCmdTrim     = 4
	nbdCmdZeroes   = 6
	nbdFlagFUA     = 1
)

// dial connects to the server of a URI and chooses its export.
func dial(address string) (*client, error) {
	uri, err := nbdclient.ParseURI(address)
	if err != nil {
		return nil, err
	}
	options, err := clientOptions(uri)
	if err != nil {
		return nil, err
	}
	options.Structured = false
	ctx := context.Background()
	h, err := nbdclient.Dial(ctx, uri, options)
	if err != nil {
		return nil, err
	}
	conn, info, err := h.Go(ctx, uri.Export)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), size: uint64(info.Size), reads: map[uint64]int{}}, nil
}

// send sends one request, without waiting for its reply.
func (c *client) send(command, flags uint16, handle, off uint64, length int, payload []byte) error {
	if command == nbdCmdRead {
		c.mu.Lock()
		c.reads[handle] = length
		c.mu.Unlock()
	}
	b := make([]byte, 0, 28+len(payload))
	b = binary.BigEndian.AppendUint32(b, nbdRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, handle)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	_, err := c.conn.Write(append(b, payload...))
	return err
}

// receive waits for the next reply, of whichever request. data is a read's.
func (c *client) receive() (handle uint64, errno uint32, data []byte, err error) {
	var reply struct {
		Magic, Errno uint32
		Handle       uint64
	}
	if err := binary.Read(c.in, binary.BigEndian, &reply); err != nil {
		return 0, 0, nil, err
	}
	if reply.Magic != nbdSimpleReply {
		return 0, 0, nil, fmt.Errorf("bad reply magic %x", reply.Magic)
	}
	c.mu.Lock()
	length, isRead := c.reads[reply.Handle]
	delete(c.reads, reply.Handle)
	c.mu.Unlock()
	if isRead && reply.Errno == 0 {
		data = make([]byte, length)
		if _, err := io.ReadFull(c.in, data); err != nil {
			return 0, 0, nil, err
		}
	}
	return reply.Handle, reply.Errno, data, nil
}

// do is one request and its reply, with nothing else under way.
func (c *client) do(command, flags uint16, off uint64, length int, payload []byte) ([]byte, error) {
	if err := c.send(command, flags, 1, off, length, payload); err != nil {
		return nil, err
	}
	_, errno, data, err := c.receive()
	if err == nil && errno != 0 {
		err = fmt.Errorf("command %d at %d: error %d", command, off, errno)
	}
	return data, err
}

func (c *client) write(off uint64, payload []byte) error {
	_, err := c.do(nbdCmdWrite, 0, off, len(payload), payload)
	return err
}

func (c *client) read(off uint64, length int) ([]byte, error) {
	return c.do(nbdCmdRead, 0, off, length, nil)
}

func (c *client) flush() error {
	_, err := c.do(nbdCmdFlush, 0, 0, 0, nil)
	return err
}

// disconnect leaves in order.
func (c *client) disconnect() error {
	if err := c.send(nbdCmdDisc, 0, 0, 0, 0, nil); err != nil {
		return err
	}
	return c.conn.Close()
}
