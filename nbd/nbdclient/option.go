package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Listed is one entry of a server's list of exports.
type Listed struct {
	Name        string
	Description string // may be empty
}

// Info is what a server says of an export.
type Info struct {
	Name        string // as the server calls it; as it was asked for if it does not say
	Description string // may be empty
	Size        int64  // bytes
	Flags       Flags
	// What requests should look like, in bytes. All 0: the server did not say, and the
	// protocol's defaults count (1, 4,096, 32 MiB).
	MinBlock, PreferredBlock, MaxBlock uint32
	// Structured: replies are structured; Read may ask for DF.
	Structured bool
	// Contexts are the selected metadata contexts that BlockStatus answers for, by the
	// number they have in its replies. Only Go fills it in.
	Contexts map[uint32]string
}

// Has reports whether the export has all of the flags.
func (i Info) Has(flags Flags) bool { return i.Flags&flags == flags }

// List asks for the server's exports. Many servers refuse.
func (h *Handshake) List(ctx context.Context) (list []Listed, err error) {
	err = h.during(ctx, func() error {
		replies, err := h.ask("its list of exports", optionList, nil, replyServer)
		for _, data := range replies {
			if len(data) < 4 || uint64(binary.BigEndian.Uint32(data)) > uint64(len(data)-4) {
				return breach("an entry of the list has %d bytes, fewer than its name needs", len(data))
			}
			n := 4 + binary.BigEndian.Uint32(data)
			list = append(list, Listed{Name: string(data[4:n]), Description: string(data[n:])})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	return list, nil
}

// Info asks about an export without using it.
func (h *Handshake) Info(ctx context.Context, export string) (info Info, err error) {
	err = h.during(ctx, func() error {
		info, err = h.askInfo(optionInfo, export)
		return err
	})
	if err != nil {
		return Info{}, fmt.Errorf("ask about export %q: %w", export, err)
	}
	return info, nil
}

// Go chooses an export and ends the handshake: the connection is handed over, with the
// first byte that the server will send on it still unread. After an error it stays with h;
// a *RefusedError leaves another try.
func (h *Handshake) Go(ctx context.Context, export string) (conn net.Conn, info Info, err error) {
	err = h.during(ctx, func() error {
		contexts, err := h.selectContexts(export)
		if err != nil {
			return err
		}
		info, err = h.askInfo(optionGo, export)
		var refused *RefusedError
		if !h.fixed || errors.As(err, &refused) && refused.Kind == RefusedUnsupported {
			info, err = h.exportName(export)
		}
		info.Contexts = contexts
		return err
	})
	if err != nil {
		return nil, Info{}, fmt.Errorf("use export %q: %w", export, err)
	}
	conn, h.conn = h.conn, nil
	return conn, info, nil
}

// nothing: ask expects only the ACK.
const nothing = replyAck

// ask sends an option and returns the data of the replies of the kind wanted. Other kinds
// before the ACK are passed over, as the protocol demands. what names it in words.
func (h *Handshake) ask(what string, option uint32, data []byte, wanted uint32) ([][]byte, error) {
	if !h.fixed {
		return nil, &RefusedError{Option: what, Kind: RefusedUnsupported}
	}
	if err := h.send(option, data); err != nil {
		return nil, err
	}
	var found [][]byte
	for range maxReplies {
		kind, data, err := h.receive(option)
		switch {
		case err != nil:
			return nil, err
		case kind == replyAck:
			return found, nil
		case kind >= replyError:
			return nil, &RefusedError{Option: what, Kind: RefusalKind(kind), Text: string(data)}
		case kind == wanted:
			found = append(found, data)
		}
	}
	return nil, breach("more than %d replies to option %d", maxReplies, option)
}

// send sends an option.
func (h *Handshake) send(option uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := h.conn.Write(append(b, data...)); err != nil {
		return fmt.Errorf("send option %d: %w", option, err)
	}
	return nil
}

// receive reads one reply to an option.
//
//	20 bytes: 0 magic (8) | 8 option (4) | 12 kind (4) | 16 length (4), then the data
func (h *Handshake) receive(option uint32) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(h.conn, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", option, noEOF(err))
	}
	if magic := binary.BigEndian.Uint64(head[:]); magic != magicOptionReply {
		return 0, nil, breach("option reply magic is %#x, want %#x", magic, magicOptionReply)
	}
	if got := binary.BigEndian.Uint32(head[8:]); got != option {
		return 0, nil, breach("a reply to option %d, want one to %d", got, option)
	}
	length := binary.BigEndian.Uint32(head[16:])
	if length > maxOptionReply {
		return 0, nil, breach("the reply to option %d has %d bytes, at most %d are accepted", option, length, maxOptionReply)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(h.conn, data); err != nil {
		return 0, nil, fmt.Errorf("read the reply to option %d: %w", option, noEOF(err))
	}
	return binary.BigEndian.Uint32(head[12:]), data, nil
}

// askInfo is NBD_OPT_INFO and NBD_OPT_GO.
//
//	request: 0 length of name (4) | 4 name | count (2) | count kinds of information (2 each)
func (h *Handshake) askInfo(option uint32, export string) (Info, error) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 3)
	for _, kind := range []uint16{infoName, infoDescription, infoBlockSize} {
		b = binary.BigEndian.AppendUint16(b, kind)
	}
	replies, err := h.ask(fmt.Sprintf("export %q", export), option, b, replyInfo)
	if err != nil {
		return Info{}, err
	}
	info := Info{Name: export, Size: -1, Structured: h.structured}
	for _, data := range replies {
		if err := info.add(data); err != nil {
			return Info{}, err
		}
	}
	if info.Size < 0 {
		return Info{}, breach("the server says yes and not how large the export is")
	}
	return info, nil
}

// add adds what one NBD_REP_INFO says.
func (i *Info) add(data []byte) error {
	if len(data) < 2 {
		return breach("an information of %d bytes", len(data))
	}
	kind, data := binary.BigEndian.Uint16(data), data[2:]
	wrong := false
	switch kind {
	case infoExport:
		if wrong = len(data) != 10; !wrong {
			return i.setExport(data)
		}
	case infoName:
		i.Name = string(data)
	case infoDescription:
		i.Description = string(data)
	case infoBlockSize:
		if wrong = len(data) != 12; !wrong {
			i.MinBlock = binary.BigEndian.Uint32(data)
			i.PreferredBlock = binary.BigEndian.Uint32(data[4:])
			i.MaxBlock = binary.BigEndian.Uint32(data[8:])
		}
	}
	if wrong {
		return breach("information %d has %d bytes", kind, len(data))
	}
	return nil
}

// setExport reads size (8) and flags (2).
func (i *Info) setExport(data []byte) error {
	size := binary.BigEndian.Uint64(data)
	if size > 1<<63-1 {
		return breach("the export is said to have %d bytes", size)
	}
	i.Size, i.Flags = int64(size), Flags(binary.BigEndian.Uint16(data[8:]))
	return nil
}

// exportName is NBD_OPT_EXPORT_NAME, for servers that know no GO. One that does not have
// the export closes the connection.
func (h *Handshake) exportName(export string) (Info, error) {
	if err := h.send(optionExportName, []byte(export)); err != nil {
		return Info{}, err
	}
	var reply [10 + 124]byte
	n := len(reply)
	if h.noZeroes {
		n = 10
	}
	if _, err := io.ReadFull(h.conn, reply[:n]); err != nil {
		return Info{}, fmt.Errorf("the server does not let us have it: %w", noEOF(err))
	}
	info := Info{Name: export, Structured: h.structured}
	return info, info.setExport(reply[:10])
}

// selectContexts is NBD_OPT_SET_META_CONTEXT for the contexts of Options. A server without
// contexts selects none.
//
//	request: 0 length of name (4) | 4 name | count (4) | count queries: length (4), text
//	reply:   0 number (4) | 4 name
func (h *Handshake) selectContexts(export string) (map[uint32]string, error) {
	if len(h.options.Contexts) == 0 || !h.structured {
		return nil, nil
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.options.Contexts)))
	for _, name := range h.options.Contexts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
		b = append(b, name...)
	}
	replies, err := h.ask("metadata contexts", optionSetMetaContext, b, replyMetaContext)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Kind == RefusedUnsupported {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	contexts := make(map[uint32]string)
	for _, data := range replies {
		if len(data) < 4 || bytes.IndexByte(data[4:], 0) >= 0 {
			return nil, breach("a metadata context of %d bytes, %q", len(data), data)
		}
		contexts[binary.BigEndian.Uint32(data)] = string(data[4:])
	}
	return contexts, nil
}
