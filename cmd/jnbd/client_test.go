package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
)

// client is a small NBD client of the tests' own: simple replies, any number of requests
// under way. It knows the server only by the protocol (proto.md), so that server and test
// can't share a mistake. One goroutine may send while another receives.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	size uint64

	mu    sync.Mutex
	reads map[uint64]int // length of the reads under way, by handle
}

// Numbers of the protocol (proto.md, "Values").
const (
	nbdMagic       = 0x4e42444d41474943 // NBDMAGIC
	nbdOptionMagic = 0x49484156454f5054 // IHAVEOPT
	nbdReplyMagic  = 0x0003e889045565a9
	nbdRequest     = 0x25609513
	nbdSimpleReply = 0x67446698

	nbdOptGo     = 7
	nbdRepAck    = 1
	nbdRepInfo   = 3
	nbdInfoSize  = 0
	nbdCmdRead   = 0
	nbdCmdWrite  = 1
	nbdCmdDisc   = 2
	nbdCmdFlush  = 3
	nbdCmdTrim   = 4
	nbdCmdZeroes = 6
	nbdFlagFUA   = 1
)

// dial connects to an nbd:// or nbd+unix:// URI and negotiates its export.
func dial(uri string) (*client, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	network, address := "tcp", u.Host
	if u.Scheme == "nbd+unix" {
		network, address = "unix", u.Query().Get("socket")
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 1<<20), reads: map[uint64]int{}}
	if err := c.negotiate(strings.TrimPrefix(u.Path, "/")); err != nil {
		conn.Close()
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	return c, nil
}

func (c *client) negotiate(export string) error {
	var hello struct {
		Magic, Option uint64
		Flags         uint16
	}
	if err := binary.Read(c.in, binary.BigEndian, &hello); err != nil {
		return err
	}
	if hello.Magic != nbdMagic || hello.Option != nbdOptionMagic {
		return fmt.Errorf("bad greeting %x %x", hello.Magic, hello.Option)
	}
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = binary.BigEndian.AppendUint64(b, nbdOptionMagic)
	b = binary.BigEndian.AppendUint32(b, nbdOptGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 0)
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		var reply struct {
			Magic                uint64
			Option, Kind, Length uint32
		}
		if err := binary.Read(c.in, binary.BigEndian, &reply); err != nil {
			return err
		}
		data := make([]byte, reply.Length)
		if _, err := io.ReadFull(c.in, data); err != nil {
			return err
		}
		switch {
		case reply.Magic != nbdReplyMagic:
			return fmt.Errorf("bad option reply magic %x", reply.Magic)
		case reply.Kind == nbdRepAck:
			return nil
		case reply.Kind == nbdRepInfo && binary.BigEndian.Uint16(data) == nbdInfoSize:
			c.size = binary.BigEndian.Uint64(data[2:])
		case reply.Kind&(1<<31) != 0:
			return fmt.Errorf("option reply %#x: %s", reply.Kind, data)
		}
	}
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
