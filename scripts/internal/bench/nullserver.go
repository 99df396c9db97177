package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The null server throws writes away and answers reads with zeros. It is what any server would
// be that had nothing to do but to speak the protocol: the share of its speed that another
// reaches says how much of the time is that one's own. For a flush it writes 8 KiB over bytes
// that are there already, and has them made durable: less than that is not a flush.
//
// One thread serves a connection, on a blocking socket; one read takes all requests that have
// come, one write answers them.

// flushBytes is what a flush writes; flushRoom is the file that it goes round in.
const (
	flushBytes = 8 << 10
	flushRoom  = 8 << 20
)

// serveNull serves size bytes of nothing on a unix socket until it is killed.
func serveNull(socket string, size int64) error {
	log, err := preWritten(socket+".log", flushRoom)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with the connection
			if err := serveNothing(conn, size, log); err != nil {
				fmt.Fprintf(os.Stderr, "null server: %v\n", err)
			}
		}()
	}
}

// preWritten makes a file of size bytes that are all written and durable.
func preWritten(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// In single blocks, as writeImage does and for the same reason.
	piece := incompressible(4 << 10)
	for off := int64(0); off < size; off += int64(len(piece)) {
		if _, err := f.WriteAt(piece, off); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, f.Sync()
}

// serveNothing serves one connection.
func serveNothing(conn net.Conn, size int64, log *os.File) error {
	if err := negotiate(conn, size); err != nil {
		return errors.Join(err, conn.Close())
	}
	fd, err := takeSocket(conn)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	s := nothing{fd: fd, in: make([]byte, 512<<10), zeros: make([]byte, 1<<20), log: log}
	for {
		n, err := receive(fd, s.in[s.have:])
		if err != nil || n == 0 {
			return err
		}
		s.have += n
		if done, err := s.answer(); done || err != nil {
			return err
		}
	}
}

// spin is how long the null server looks for the next request before it sleeps: to wake a thread up
// takes longer than all else that is done for a small request.
const spin = 30 * time.Microsecond

// receive takes what the socket has, and waits for it; 0 is its end.
func receive(fd int, p []byte) (int, error) {
	for began := time.Now(); time.Since(began) < spin; {
		// It can't block, so Go's scheduler need not know of it.
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return 0, errno
		}
	}
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// nothing is the state of a connection.
type nothing struct {
	fd    int
	in    []byte
	have  int
	out   []byte
	zeros []byte
	skip  int    // bytes of a write's payload still to come
	reply uint64 // to that write
	log   *os.File
	at    int64
}

// answer replies to all requests that have come whole.
func (s *nothing) answer() (done bool, err error) {
	p := s.in[:s.have]
	for {
		if s.skip > 0 {
			drop := min(s.skip, len(p))
			p, s.skip = p[drop:], s.skip-drop
			if s.skip > 0 {
				break
			}
			s.ok(s.reply)
		}
		if len(p) < 28 {
			break
		}
		if binary.BigEndian.Uint32(p) != requestMagic {
			return false, fmt.Errorf("a request begins with %x", p[:4])
		}
		command, cookie, length := binary.BigEndian.Uint16(p[6:]), binary.BigEndian.Uint64(p[8:]), int(binary.BigEndian.Uint32(p[24:]))
		p = p[28:]
		switch command {
		case 0:
			s.ok(cookie)
			err = s.sendZeros(length)
		case 1:
			s.skip, s.reply = length, cookie
			if length == 0 {
				s.ok(cookie)
			}
		case 2:
			return true, nil
		case 3:
			err = s.flush()
			s.ok(cookie)
		default:
			s.ok(cookie)
		}
		if err != nil {
			return false, err
		}
	}
	s.have = copy(s.in, p)
	return false, s.send()
}

// ok replies without an error.
func (s *nothing) ok(cookie uint64) {
	s.out = binary.BigEndian.AppendUint32(s.out, replyMagic)
	s.out = binary.BigEndian.AppendUint32(s.out, 0)
	s.out = binary.BigEndian.AppendUint64(s.out, cookie)
}

// sendZeros is the payload of a read. A large one goes out by itself.
func (s *nothing) sendZeros(n int) error {
	if n <= 64<<10 {
		s.out = append(s.out, s.zeros[:n]...)
		return nil
	}
	for n > 0 {
		piece := min(n, len(s.zeros))
		s.out = append(s.out, s.zeros[:piece]...)
		n -= piece
		if err := s.send(); err != nil {
			return err
		}
	}
	return nil
}

func (s *nothing) send() error {
	for done := 0; done < len(s.out); {
		n, err := unix.Write(s.fd, s.out[done:])
		if err != nil && err != unix.EINTR {
			return err
		}
		done += max(n, 0)
	}
	s.out = s.out[:0]
	return nil
}

func (s *nothing) flush() error {
	if _, err := s.log.WriteAt(s.zeros[:flushBytes], s.at); err != nil {
		return err
	}
	s.at = (s.at + flushBytes) % flushRoom
	return unix.Fdatasync(int(s.log.Fd()))
}

// negotiate takes options until one chooses the export, whatever its name.
func negotiate(conn net.Conn, size int64) error {
	const (
		greeting  = 0x4e42444d41474943
		option    = 0x49484156454f5054
		reply     = 0x0003e889045565a9
		flags     = 1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8 // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN
		ack, info = 1, 3
		unknown   = 1<<31 + 1
	)
	be := binary.BigEndian
	hello := be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, greeting), option), 3) // fixed newstyle, no zeroes
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	var head [16]byte
	if _, err := io.ReadFull(conn, head[:4]); err != nil {
		return err
	}
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, conn, int64(be.Uint32(head[12:]))); err != nil {
			return err
		}
		answer := func(kind uint32, data []byte) []byte {
			p := be.AppendUint32(be.AppendUint64(nil, reply), be.Uint32(head[8:]))
			return append(be.AppendUint32(be.AppendUint32(p, kind), uint32(len(data))), data...)
		}
		var out []byte
		chosen := false
		switch be.Uint32(head[8:]) {
		case 6, 7: // INFO, GO
			out = answer(info, be.AppendUint16(be.AppendUint64([]byte{0, 0}, uint64(size)), flags))
			out = append(out, answer(ack, nil)...)
			chosen = be.Uint32(head[8:]) == 7
		case 2: // ABORT
			_, err := conn.Write(answer(ack, nil))
			return errors.Join(err, io.EOF)
		default:
			out = answer(unknown, nil)
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if chosen {
			return nil
		}
	}
}
