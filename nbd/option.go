package nbd

import (
	"encoding/binary"
	"slices"
)

// answerOption answers one option ("Option types" in proto.md). An error ends the
// negotiation; c.export is set when it succeeded.
func (c *conn) answerOption(option uint32, data []byte) error {
	if option == optExportName {
		return c.exportName(string(data))
	}
	if c.needsTLS(option) {
		a := &answers{option: option}
		a.refuse(repErrTLSReqd, "this server requires TLS")
		_, err := c.stream.Write(a.out)
		return err
	}
	a := &answers{option: option}
	var end error
	upgrade := false
	switch option {
	case optAbort:
		a.add(repAck, nil)
		end = errAborted
	case optStartTLS:
		upgrade = c.startTLS(a, data)
	case optList:
		c.list(a, data)
	case optInfo:
		c.info(a, data)
	case optGo:
		c.info(a, data)
	case optStructuredReply:
		c.structuredReply(a, data)
	case optExtendedHeaders:
		c.extendedHeaders(a, data)
	case optListMetaContext, optSetMetaContext:
		c.metaContext(a, data)
	default:
		a.refuse(repErrUnsup, "option %d is not supported", option)
	}
	if _, err := c.stream.Write(a.out); err != nil && end == nil {
		return err // a client that aborts need not wait for the answer
	}
	if upgrade {
		return c.handshake()
	}
	return end
}

// exportName is NBD_OPT_EXPORT_NAME. It has no error reply: the connection ends.
func (c *conn) exportName(name string) error {
	if err := validName(name); err != nil {
		return protocolError("export name " + err.Error())
	}
	if c.needsTLS(optExportName) {
		return protocolError("export " + clip(name) + " asked for without TLS, which is required")
	}
	if c.agreed.style == extended {
		return protocolError("export " + clip(name) + " asked for by EXPORT_NAME, which extended headers exclude")
	}
	x := c.server.hold(name)
	if x == nil {
		return protocolError("unknown export " + clip(name))
	}
	if kind, reason := c.mayUse(x); kind != 0 {
		c.server.letGo(x)
		return protocolError(reason)
	}
	size, err := x.sizeNow()
	if err != nil {
		c.server.letGo(x)
		return err
	}
	c.attach(x, size)
	b := make([]byte, 0, exportNameReply+exportNameZeroes)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	b = binary.BigEndian.AppendUint16(b, x.transmissionFlags(&c.agreed))
	if !c.agreed.noZeroes {
		b = b[:cap(b)]
	}
	_, err = c.stream.Write(b)
	return err
}

// attach chooses x, which the caller holds; the connection holds it from here on.
func (c *conn) attach(x *export, size int64) {
	c.export, c.size = x, size
	c.style = c.agreed.style
	if c.agreed.metaExport == x {
		c.contexts = c.agreed.contexts
	}
	c.changesSeen.Store(x.changes.Load())
}

// list is NBD_OPT_LIST.
func (c *conn) list(a *answers, data []byte) {
	if len(data) != 0 {
		a.refuse(repErrInvalid, "a list request has no data, this one has %d bytes", len(data))
		return
	}
	for _, x := range c.server.list() {
		if kind, _ := c.mayUse(x); kind != 0 {
			continue
		}
		entry := binary.BigEndian.AppendUint32(nil, uint32(len(x.Name)))
		entry = append(entry, x.Name...)
		a.add(repServer, append(entry, x.description()...))
	}
	a.add(repAck, nil)
}

// structuredReply is NBD_OPT_STRUCTURED_REPLY.
func (c *conn) structuredReply(a *answers, data []byte) {
	if len(data) != 0 {
		a.refuse(repErrInvalid, "a request for structured replies has no data, this one has %d bytes", len(data))
		return
	}
	if c.agreed.style == extended {
		a.refuse(repErrExtHeader, "extended headers were agreed, and are not taken back")
		return
	}
	c.agreed.style = structured
	a.add(repAck, nil)
}

// extendedHeaders is NBD_OPT_EXTENDED_HEADERS.
func (c *conn) extendedHeaders(a *answers, data []byte) {
	if len(data) != 0 {
		a.refuse(repErrInvalid, "a request for extended headers has no data, this one has %d bytes", len(data))
		return
	}
	c.agreed.style = extended
	a.add(repAck, nil)
}

// info is NBD_OPT_INFO, and NBD_OPT_GO, which chooses the export if the answer is yes.
//
//	data: 0 length of name (4) | 4 name | count (2) | count kinds of information (2 each)
func (c *conn) info(a *answers, data []byte) {
	f := fields{rest: data}
	name := f.text()
	count := f.uint16()
	if f.bad || len(f.rest) != 2*int(count) {
		a.refuse(repErrInvalid, "the lengths inside the option do not add up to its %d bytes", len(data))
		return
	}
	x := c.ask(a, name)
	if x == nil {
		return
	}
	if size, ok := c.describe(a, x, &f, count); ok && a.option == optGo {
		c.attach(x, size)
		return
	}
	c.server.letGo(x)
}

// describe adds what there is to know of x, and of that what the client asks for.
func (c *conn) describe(a *answers, x *export, f *fields, count uint16) (size int64, ok bool) {
	var kinds []uint16
	for range count {
		kinds = append(kinds, f.uint16())
	}
	size, err := x.sizeNow()
	if err != nil {
		a.refuse(repErrUnknown, "export %q is not available: %v", x.Name, err)
		return 0, false
	}

	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	a.add(repInfo, binary.BigEndian.AppendUint16(b, x.transmissionFlags(&c.agreed)))
	if slices.Contains(kinds, infoName) {
		a.add(repInfo, append(binary.BigEndian.AppendUint16(nil, infoName), x.Name...))
	}
	if description := x.description(); description != "" && slices.Contains(kinds, infoDescription) {
		a.add(repInfo, append(binary.BigEndian.AppendUint16(nil, infoDescription), description...))
	}
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, x.MinBlock)
	b = binary.BigEndian.AppendUint32(b, x.PreferredBlock)
	a.add(repInfo, binary.BigEndian.AppendUint32(b, x.MaxBlock))
	a.add(repAck, nil)
	return size, true
}

// ask finds the export that the client names, or refuses. The caller holds it then.
func (c *conn) ask(a *answers, name string) *export {
	if err := validName(name); err != nil {
		a.refuse(repErrInvalid, "export name %v", err)
		return nil
	}
	if c.stopping.Load() {
		a.refuse(repErrShutdown, "the server is shutting down")
		return nil
	}
	x := c.server.hold(name)
	if x == nil {
		a.refuse(repErrUnknown, "there is no export %q", name)
		return nil
	}
	if kind, reason := c.mayUse(x); kind != 0 {
		c.server.letGo(x)
		a.refuse(kind, "%s", reason)
		return nil
	}
	return x
}
