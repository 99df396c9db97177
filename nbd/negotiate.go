package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// A negotiation ("Newstyle negotiation" in proto.md), all of it under one deadline:
//
//  1. The server greets, the client answers with its flags; unknown ones end it.
//  2. The client sends options, the server answers each. Whatever an option's data holds,
//     its length says where the next begins, so that after an error reply both are still
//     in step. Only a wrong magic, a length over the limit, or too many options end it.
//  3. STARTTLS makes the connection a secure one, and all begins again but for the greeting
//     (tls.go).
//  4. EXPORT_NAME or GO choose an export and begin the transmission.

// agreement is what a negotiation has settled so far.
type agreement struct {
	fixed      bool // the client knows fixed newstyle
	noZeroes   bool
	style      style
	metaExport *export // for which contexts were selected, if any were
	contexts   contextSet
}

// negotiate returns nil when an export was chosen. It then stands in c.export.
func (c *conn) negotiate() error {
	timeout := c.server.HandshakeTimeout
	if timeout <= 0 {
		timeout = defaultHandshakeTimeout
	}
	if err := c.setDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := c.greet(); err != nil {
		return err
	}
	for range maxOptions {
		option, data, err := c.readOption()
		if err != nil {
			return err
		}
		if err := c.answerOption(option, data); err != nil {
			return err
		}
		if c.export != nil {
			return c.setDeadline(noDeadline)
		}
	}
	return protocolError(fmt.Sprintf("more than %d options in one negotiation", maxOptions))
}

// greet exchanges greeting and client flags.
func (c *conn) greet() error {
	b := make([]byte, 0, greetingSize)
	b = binary.BigEndian.AppendUint64(b, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.stream.Write(b); err != nil {
		return err
	}
	var answer [clientFlagLen]byte
	if _, err := io.ReadFull(c.stream, answer[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(answer[:])
	if unknown := flags &^ (clientFixedNewstyle | clientNoZeroes); unknown != 0 {
		return protocolError(fmt.Sprintf("unknown client flags %#x", unknown))
	}
	// A client without FIXED_NEWSTYLE sends EXPORT_NAME only, which needs no other care.
	c.agreed.fixed = flags&clientFixedNewstyle != 0
	c.agreed.noZeroes = flags&clientNoZeroes != 0
	return nil
}

// readOption reads one option with its data.
func (c *conn) readOption() (option uint32, data []byte, err error) {
	var head [optionHeaderSize]byte
	if _, err := io.ReadFull(c.stream, head[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(head[:]); magic != magicOption {
		return 0, nil, protocolError(fmt.Sprintf("option magic is %#x, want %#x", magic, magicOption))
	}
	option = binary.BigEndian.Uint32(head[8:])
	length := binary.BigEndian.Uint32(head[12:])
	if length > maxOptionBytes {
		return 0, nil, protocolError(fmt.Sprintf("option %d has %d bytes of data, at most %d are allowed",
			option, length, maxOptionBytes))
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(c.stream, data); err != nil {
		return 0, nil, err
	}
	return option, data, nil
}

// answers collects the replies to one option.
type answers struct {
	option uint32
	out    []byte
}

// add adds a reply.
func (a *answers) add(kind uint32, data []byte) {
	a.out = binary.BigEndian.AppendUint64(a.out, magicOptionReply)
	a.out = binary.BigEndian.AppendUint32(a.out, a.option)
	a.out = binary.BigEndian.AppendUint32(a.out, kind)
	a.out = binary.BigEndian.AppendUint32(a.out, uint32(len(data)))
	a.out = append(a.out, data...)
}

// refuse adds an error reply, with a text for whoever debugs the client.
func (a *answers) refuse(kind uint32, format string, args ...any) {
	a.add(kind, []byte(clip(fmt.Sprintf(format, args...))))
}

// fields reads an option's data piece by piece. After the first piece that is not there,
// bad is set and all that follows is empty.
type fields struct {
	rest []byte
	bad  bool
}

// take returns the next n bytes.
func (f *fields) take(n uint32) []byte {
	if f.bad || uint64(n) > uint64(len(f.rest)) {
		f.bad = true
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) uint16() uint16 {
	if b := f.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (f *fields) uint32() uint32 {
	if b := f.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (f *fields) uint64() uint64 {
	if b := f.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// text returns a string that follows its length.
func (f *fields) text() string { return string(f.take(f.uint32())) }

// clip shortens a text for an error reply, at a character's end.
func clip(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	end := maxErrorText
	for end > 0 && text[end]&0xc0 == 0x80 { // inside a UTF-8 sequence
		end--
	}
	return text[:end]
}
