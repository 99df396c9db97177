package nbdclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Options are what a handshake asks for beyond an export. The zero value asks for nothing:
// simple replies, no contexts, no TLS, as the kernel needs it.
type Options struct {
	// Structured asks for structured replies. A server without them is fine: see
	// Info.Structured.
	Structured bool
	// Contexts are metadata contexts to select for Go, such as "base:allocation". They
	// imply Structured. Which of them the server has is in Info.Contexts.
	Contexts []string
	// Upgrade, when not nil, is called with the connection once the server has agreed to
	// STARTTLS; what it returns takes the connection's place. A server that refuses
	// STARTTLS fails the handshake: nothing is ever sent in the clear instead.
	Upgrade func(net.Conn) (net.Conn, error)
}

// Handshake is a connection on which no export has been chosen. Its methods must not run
// at the same time. After an error that is not a *RefusedError it is of no use.
type Handshake struct {
	conn       net.Conn
	options    Options
	fixed      bool // the server knows options beside EXPORT_NAME
	noZeroes   bool
	structured bool
}

// Dial connects to the server of uri and exchanges greetings, within ctx. The export that
// uri names is not asked for yet.
func Dial(ctx context.Context, uri URI, options Options) (*Handshake, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, uri.Network, uri.Address)
	if err != nil {
		return nil, err // it names network and address
	}
	h, err := NewHandshake(ctx, conn, options)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("nbd handshake with %s: %w", uri.Address, err)
	}
	return h, nil
}

// NewHandshake exchanges greetings on a connection that is there already. After an error
// the connection is still the caller's to close.
func NewHandshake(ctx context.Context, conn net.Conn, options Options) (*Handshake, error) {
	h := &Handshake{conn: conn, options: options}
	err := h.during(ctx, func() error {
		if err := h.greet(); err != nil {
			return err
		}
		if err := h.startTLS(); err != nil {
			return err
		}
		return h.askStructured()
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// during runs f, which reads from and writes to the connection, and cuts it short when ctx
// ends.
func (h *Handshake) during(ctx context.Context, f func() error) error {
	conn := h.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	err := f()
	if !stop() {
		return context.Cause(ctx) // the deadline stays: the connection is of no use
	}
	return err
}

// greet is the first exchange: "Newstyle negotiation" and "Fixed newstyle negotiation".
func (h *Handshake) greet() error {
	var hello [18]byte
	if _, err := io.ReadFull(h.conn, hello[:8]); err != nil {
		return fmt.Errorf("read the greeting: %w", noEOF(err))
	}
	if got := binary.BigEndian.Uint64(hello[:]); got != magicServer {
		return breach("the greeting begins with %#x, want %#x: is this an NBD server?", got, magicServer)
	}
	if _, err := io.ReadFull(h.conn, hello[8:]); err != nil {
		return fmt.Errorf("read the greeting: %w", noEOF(err))
	}
	switch got := binary.BigEndian.Uint64(hello[8:]); got {
	case magicOption:
	case magicOld:
		return breach("the server speaks the oldstyle handshake, which nobody should")
	default:
		return breach("the greeting goes on with %#x, want %#x", got, magicOption)
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	h.fixed = flags&handshakeFixed != 0
	h.noZeroes = flags&handshakeNoZeroes != 0
	var mine uint32
	if h.fixed {
		mine |= clientFixed
	}
	if h.noZeroes {
		mine |= clientNoZeroes
	}
	if _, err := h.conn.Write(binary.BigEndian.AppendUint32(nil, mine)); err != nil {
		return fmt.Errorf("answer the greeting: %w", err)
	}
	return nil
}

// startTLS is NBD_OPT_STARTTLS, if Options want it.
func (h *Handshake) startTLS() error {
	if h.options.Upgrade == nil {
		return nil
	}
	if _, err := h.ask("TLS", optionStartTLS, nil, nothing); err != nil {
		return err
	}
	conn, err := h.options.Upgrade(h.conn)
	if err != nil {
		return fmt.Errorf("start TLS: %w", err)
	}
	h.conn = conn
	return nil
}

// askStructured is NBD_OPT_STRUCTURED_REPLY, if Options want it.
func (h *Handshake) askStructured() error {
	if !h.options.Structured && len(h.options.Contexts) == 0 {
		return nil
	}
	_, err := h.ask("structured replies", optionStructuredReply, nil, nothing)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Kind != RefusedNeedTLS {
		return nil // it goes on with simple ones
	}
	h.structured = err == nil
	return err
}

// Abort ends the handshake in order and closes the connection.
func (h *Handshake) Abort(ctx context.Context) error {
	err := h.during(ctx, func() error { return h.send(optionAbort, nil) })
	if closeErr := h.conn.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Close closes the connection. After Go it does nothing: the connection is somebody else's.
func (h *Handshake) Close() error {
	if h.conn == nil {
		return nil
	}
	return h.conn.Close()
}

// noEOF turns an end in the middle into what it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the server closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return err
}
