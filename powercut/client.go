package powercut

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// client is a small NBD client: simple replies, many requests under way. It knows the
// server only by the protocol (proto.md), so that both can't share a mistake.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	size int64

	sendMu sync.Mutex // one request is written at a time
	out    []byte     // guarded by sendMu
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
	nbdCmdFlush  = 3
	nbdCmdTrim   = 4
	nbdCmdZeroes = 6
	nbdFlagFUA   = 1
)

// dial connects to a unix socket and negotiates the default export.
func dial(socket string) (*client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 1<<20)}
	if err := c.negotiate(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	return c, nil
}

func (c *client) negotiate() error {
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
	b = binary.BigEndian.AppendUint32(b, 6) // a name of no bytes, no wishes
	b = append(b, 0, 0, 0, 0, 0, 0)
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
		if reply.Magic != nbdReplyMagic || reply.Length > 1<<16 {
			return fmt.Errorf("bad option reply %x of %d bytes", reply.Magic, reply.Length)
		}
		data := make([]byte, reply.Length)
		if _, err := io.ReadFull(c.in, data); err != nil {
			return err
		}
		switch {
		case reply.Kind == nbdRepAck:
			return nil
		case reply.Kind == nbdRepInfo && len(data) >= 10 && binary.BigEndian.Uint16(data) == nbdInfoSize:
			c.size = int64(binary.BigEndian.Uint64(data[2:]))
		case reply.Kind&(1<<31) != 0:
			return fmt.Errorf("option reply %#x: %s", reply.Kind, data)
		}
	}
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
