package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// negotiationServer serves three exports: "first" (the default), "second" read-only with
// its own block sizes, and "broken", whose size is not to be had.
func negotiationServer(t *testing.T) string {
	broken := newMemDisk(memPage)
	broken.fail = func(string) error { return errors.New("no medium") }
	return startServer(t, &Server{Exports: []Export{
		{Name: "first", Description: "the first disk", Device: newMemDisk(1 << 20)},
		{Name: "second ü", Device: newMemDisk(1<<20 + 1), ReadOnly: true, MinBlock: 512, PreferredBlock: 64 << 10, MaxBlock: 1 << 20},
		{Name: "broken", Device: broken},
	}})
}

// describe writes replies as the tables below do: one line for each.
func describe(replies []optionReply) string {
	var lines []string
	for _, r := range replies {
		switch r.kind {
		case repAck:
			lines = append(lines, "ACK")
		case repServer:
			n := binary.BigEndian.Uint32(r.data)
			lines = append(lines, "SERVER "+string(r.data[4:4+n])+"|"+string(r.data[4+n:]))
		case repInfo:
			kind := binary.BigEndian.Uint16(r.data)
			switch kind {
			case infoName, infoDescription:
				lines = append(lines, []string{1: "NAME ", 2: "DESCRIPTION "}[kind]+string(r.data[2:]))
			default:
				lines = append(lines, []string{0: "EXPORT ", 3: "BLOCK_SIZE "}[kind]+hex.EncodeToString(r.data[2:]))
			}
		case repMetaContext:
			lines = append(lines, "CONTEXT "+hex.EncodeToString(r.data[:4])+" "+string(r.data[4:]))
		case repErrUnsup, repErrPolicy, repErrInvalid, repErrTLSReqd, repErrUnknown, repErrExtHeader:
			name := map[uint32]string{1: "ERR_UNSUP", 2: "ERR_POLICY", 3: "ERR_INVALID", 5: "ERR_TLS_REQD", 6: "ERR_UNKNOWN", 10: "ERR_EXT_HEADER_REQD"}[r.kind&^repErr]
			if len(r.data) == 0 {
				name += " without a text"
			}
			lines = append(lines, name)
		default:
			lines = append(lines, "type "+hex.EncodeToString(be32(r.kind)))
		}
	}
	return strings.Join(lines, "\n")
}

// Transmission flags of the exports, as bytes: HAS_FLAGS 1, READ_ONLY 2, FLUSH 4, FUA 8,
// TRIM 0x20, WRITE_ZEROES 0x40, DF 0x80, CAN_MULTI_CONN 0x100, CACHE 0x400, FAST_ZERO 0x800.
const (
	firstInfo  = "EXPORT 00000000001000000d6d"
	firstSizes = "BLOCK_SIZE 000000010000100002000000"
)

func TestOptions(t *testing.T) {
	long := strings.Repeat("x", maxNameBytes)
	tables := []struct {
		name    string
		before  func(c *client)
		option  uint32
		data    []byte
		want    string
		decided bool // the transmission begins
	}{
		{name: "list", option: optList, want: "SERVER first|the first disk\nSERVER second ü|\nSERVER broken|\nACK"},
		{name: "list with data", option: optList, data: []byte{1}, want: "ERR_INVALID"},
		{name: "abort", option: optAbort, want: "ACK", decided: true},
		{name: "starttls", option: 5, want: "ERR_UNSUP"},
		{name: "extended headers with data", option: optExtendedHeaders, data: []byte{1}, want: "ERR_INVALID"},
		{name: "unknown option", option: 0x7fffffff, data: make([]byte, maxOptionBytes), want: "ERR_UNSUP"},

		{name: "info", option: optInfo, data: infoRequest("first"), want: firstInfo + "\n" + firstSizes + "\nACK"},
		{name: "info of the default export", option: optInfo, data: infoRequest("", infoName), want: firstInfo + "\nNAME first\n" + firstSizes + "\nACK"},
		{name: "info with all", option: optInfo, data: infoRequest("first", infoBlockSize, infoDescription, infoName, infoExport, 77), want: firstInfo + "\nNAME first\nDESCRIPTION the first disk\n" + firstSizes + "\nACK"},
		{name: "info of a read-only export", option: optInfo, data: infoRequest("second ü", infoDescription), want: "EXPORT 00000000001000010d6f\nBLOCK_SIZE 000002000001000000100000\nACK"},
		{name: "df is offered with structured replies", before: func(c *client) { c.mustAck(c.option(optStructuredReply, nil)) }, option: optInfo, data: infoRequest("first"), want: "EXPORT 00000000001000000ded\n" + firstSizes + "\nACK"},
		{name: "info of an unknown export", option: optInfo, data: infoRequest("third"), want: "ERR_UNKNOWN"},
		{name: "info of a broken export", option: optInfo, data: infoRequest("broken"), want: "ERR_UNKNOWN"},
		{name: "go", option: optGo, data: infoRequest("first"), want: firstInfo + "\n" + firstSizes + "\nACK", decided: true},
		{name: "go to an unknown export", option: optGo, data: infoRequest("third"), want: "ERR_UNKNOWN"},
		{name: "go to an unknown export after info", before: func(c *client) { c.mustAck(c.option(optInfo, infoRequest("first"))) }, option: optGo, data: infoRequest("third"), want: "ERR_UNKNOWN"},

		{name: "longest name", option: optInfo, data: infoRequest(long), want: "ERR_UNKNOWN"},
		{name: "name too long", option: optInfo, data: infoRequest(long + "x"), want: "ERR_INVALID"},
		{name: "name with nul", option: optInfo, data: infoRequest("fir\x00st"), want: "ERR_INVALID"},
		{name: "name not utf-8", option: optInfo, data: infoRequest("\xff"), want: "ERR_INVALID"},
		{name: "no data", option: optInfo, want: "ERR_INVALID"},
		{name: "name longer than the option", option: optGo, data: be32(1000), want: "ERR_INVALID"},
		{name: "name of 4 GiB", option: optGo, data: append(be32(0xffffffff), 0, 0), want: "ERR_INVALID"},
		{name: "fewer kinds than said", option: optGo, data: infoRequest("first", 1, 2)[:4+5+2+2], want: "ERR_INVALID"},
		{name: "more kinds than said", option: optGo, data: append(infoRequest("first"), 0, 1), want: "ERR_INVALID"},
		{name: "an odd byte", option: optGo, data: append(infoRequest("first"), 0), want: "ERR_INVALID"},

		{name: "structured", option: optStructuredReply, want: "ACK"},
		{name: "structured twice", before: func(c *client) { c.mustAck(c.option(optStructuredReply, nil)) }, option: optStructuredReply, want: "ACK"},
		{name: "structured with data", option: optStructuredReply, data: []byte{0}, want: "ERR_INVALID"},
		{name: "list contexts too early", option: optListMetaContext, data: metaQuery("first"), want: "ERR_INVALID"},
		{name: "set contexts too early", option: optSetMetaContext, data: metaQuery("first", "base:allocation"), want: "ERR_INVALID"},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, negotiationServer(t))
			if tt.before != nil {
				tt.before(c)
			}
			if got := describe(c.option(tt.option, tt.data)); got != tt.want {
				t.Errorf("replies:\n%s\nwant:\n%s", got, tt.want)
			}
			if !tt.decided { // both must still be in step
				c.chooseExport("first")
				c.must(cmdRead, 0, 0, 512, nil)
			}
		})
	}
}

func TestMetaContexts(t *testing.T) {
	const listed = "CONTEXT 00000000 base:allocation\nACK"
	const all = "CONTEXT 00000000 base:allocation\nCONTEXT 00000000 qemu:allocation-depth\nACK"
	const set = "CONTEXT 00000001 base:allocation\nACK"
	tables := []struct {
		name   string
		option uint32
		data   []byte
		want   string
	}{
		{"list all", optListMetaContext, metaQuery("first"), all},
		{"list qemu's", optListMetaContext, metaQuery("first", "qemu:"), "CONTEXT 00000000 qemu:allocation-depth\nACK"},
		{"set both", optSetMetaContext, metaQuery("first", "qemu:allocation-depth", "base:allocation"), "CONTEXT 00000001 base:allocation\nCONTEXT 00000002 qemu:allocation-depth\nACK"},
		{"list a namespace", optListMetaContext, metaQuery("first", "base:"), listed},
		{"list one", optListMetaContext, metaQuery("", "base:allocation"), listed},
		{"list an unknown one", optListMetaContext, metaQuery("first", "qemu:dirty-bitmap:x", "allocation"), "ACK"},
		{"list for an unknown export", optListMetaContext, metaQuery("third"), "ERR_UNKNOWN"},
		{"set one", optSetMetaContext, metaQuery("first", "base:allocation"), set},
		{"set one among others, twice", optSetMetaContext, metaQuery("first", "x:y", "base:allocation", "base:allocation"), set},
		{"set none", optSetMetaContext, metaQuery("first"), "ACK"},
		{"set a namespace", optSetMetaContext, metaQuery("first", "base:"), "ACK"},
		{"set for an unknown export", optSetMetaContext, metaQuery("third", "base:allocation"), "ERR_UNKNOWN"},
		{"query too long", optSetMetaContext, metaQuery("first", strings.Repeat("x", 4097)), "ERR_INVALID"},
		{"query not utf-8", optSetMetaContext, metaQuery("first", "\xff"), "ERR_INVALID"},
		{"no data", optSetMetaContext, nil, "ERR_INVALID"},
		{"more queries than there are", optSetMetaContext, append(be32(0), be32(0xffffffff)...), "ERR_INVALID"},
		{"query longer than the option", optListMetaContext, bytes.Join([][]byte{be32(0), be32(1), be32(9), []byte("base:")}, nil), "ERR_INVALID"},
		{"data after the queries", optListMetaContext, append(metaQuery("first"), 0), "ERR_INVALID"},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, negotiationServer(t))
			c.mustAck(c.option(optStructuredReply, nil))
			if got := describe(c.option(tt.option, tt.data)); got != tt.want {
				t.Errorf("replies:\n%s\nwant:\n%s", got, tt.want)
			}
			c.chooseExport("first")
			want := EINVAL // no context is selected, so there is nothing to ask for
			if tt.option == optSetMetaContext && strings.HasPrefix(tt.want, "CONTEXT") {
				want = 0
			}
			if r := c.do(cmdBlockStatus, 0, 0, 4096, nil); r.errno != want {
				t.Errorf("block status after it: %v, want %v", r.errno, want)
			}
		})
	}
}

// A context is selected for an export, by a SET that later ones replace.
func TestMetaContextIsOfOneExport(t *testing.T) {
	set := func(name string) func(c *client) {
		return func(c *client) { c.option(optSetMetaContext, metaQuery(name, "base:allocation")) }
	}
	tables := []struct {
		name   string
		before []func(c *client)
		choose string
		want   Errno
	}{
		{"same", []func(*client){set("second ü")}, "second ü", 0},
		{"default export by its name", []func(*client){set("")}, "first", 0},
		{"another", []func(*client){set("first")}, "second ü", EINVAL},
		{"replaced", []func(*client){set("first"), set("second ü")}, "first", EINVAL},
		{"a failed set forgets", []func(*client){set("first"), set("third")}, "first", EINVAL},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, negotiationServer(t))
			c.mustAck(c.option(optStructuredReply, nil))
			for _, f := range tt.before {
				f(c)
			}
			c.chooseExport(tt.choose)
			if r := c.do(cmdBlockStatus, 0, 0, 4096, nil); r.errno != tt.want {
				t.Errorf("block status: %v, want %v", r.errno, tt.want)
			}
		})
	}
}

func TestNegotiationEndsAt(t *testing.T) {
	tables := []struct {
		name string
		send func(c *client)
	}{
		{"bad option magic", func(c *client) { c.write(make([]byte, 16)) }},
		{"option over the limit", func(c *client) {
			c.write(append(append([]byte("IHAVEOPT"), be32(optInfo)...), be32(maxOptionBytes+1)...))
		}},
		{"too many options", func(c *client) {
			for range maxOptions {
				c.option(optStructuredReply, nil)
			}
		}},
		{"abort", func(c *client) { c.option(optAbort, nil) }},
		{"unknown export name", func(c *client) { c.sendOption(optExportName, []byte("third")) }},
		{"export name not utf-8", func(c *client) { c.sendOption(optExportName, []byte("\xff")) }},
		{"export name too long", func(c *client) { c.sendOption(optExportName, make([]byte, maxNameBytes+1)) }},
		{"export name of a broken export", func(c *client) { c.sendOption(optExportName, []byte("broken")) }},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, negotiationServer(t))
			tt.send(c)
			c.mustBeClosed()
		})
	}
}

func TestUnknownClientFlags(t *testing.T) {
	nc, err := net.Dial("unix", negotiationServer(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, nc: nc}
	defer nc.Close()
	c.read(18)
	c.write(be32(4 | 3))
	c.mustBeClosed()
}

func TestExportName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		flags  uint32
		zeroes int
	}{{"fixed, no zeroes", 3, 0}, {"fixed", 1, 124}, {"not fixed", 0, 124}} {
		t.Run(tt.name, func(t *testing.T) {
			nc, err := net.Dial("unix", negotiationServer(t))
			if err != nil {
				t.Fatal(err)
			}
			c := &client{t: t, nc: nc, lengths: make(map[uint64]uint32)}
			defer nc.Close()
			c.read(18)
			c.write(be32(tt.flags))
			c.sendOption(optExportName, []byte("first"))
			want := append([]byte{0, 0, 0, 0, 0, 0x10, 0, 0, 0x0d, 0x6d}, make([]byte, tt.zeroes)...)
			if got := c.read(len(want)); !bytes.Equal(got, want) {
				t.Errorf("reply is %x, want %x", got, want)
			}
			c.must(cmdRead, 0, 0, 512, nil)
		})
	}
}

// A client that does not choose an export is closed when the negotiation's time is over, counted
// from its beginning: wherever it stops, and however slowly it came there. So is one that never
// stops asking.
func TestHandshakeTimeout(t *testing.T) {
	begun := append(be32(3), append(append([]byte("IHAVEOPT"), be32(optGo)...), be32(100)...)...)
	for n := 0; n <= len(begun); n++ {
		t.Run(fmt.Sprintf("%d bytes", n), func(t *testing.T) {
			timesOut(t, begun[:n], 9*time.Second/time.Duration(len(begun)))
		})
	}
	asking := be32(3)
	for range maxOptions - 1 {
		asking = append(asking, append(append([]byte("IHAVEOPT"), be32(optList)...), be32(0)...)...)
	}
	t.Run("asking", func(t *testing.T) { timesOut(t, asking, 11*time.Second/time.Duration(len(asking))) })
}

// timesOut has a client send bytes at a pace, and then nothing. It must be closed after exactly the
// default timeout.
func timesOut(t *testing.T, sent []byte, pace time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		start := time.Now()
		var took time.Duration
		ended := make(chan Event, 1)
		s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}, OnEvent: func(e Event) {
			if e.Kind == ConnClosed {
				took = time.Since(start)
				ended <- e
			}
		}}
		defer s.Close()
		if err := s.setUp(); err != nil {
			t.Fatal(err)
		}
		s.accepted(far)
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, near) }) // a pipe has no buffer
		for _, b := range sent {
			if _, err := near.Write([]byte{b}); err != nil {
				break // it was closed
			}
			<-time.After(pace) // of the test's own clock
		}
		if e := <-ended; took != defaultHandshakeTimeout || e.Reason != reasonTimeout {
			t.Errorf("closed after %v because %q (%v), want %v, %q", took, e.Reason, e.Err, defaultHandshakeTimeout, reasonTimeout)
		}
		_ = near.Close()
		reading.Wait()
	})
}

// TestDescribe: a description is made anew for each question, and one that the protocol
// does not allow is left out.
func TestDescribe(t *testing.T) {
	answer := make(chan string, 3)
	path := startServer(t, &Server{Exports: []Export{{
		Description: "never told", Describe: func() string { return <-answer }, Device: newMemDisk(memPage),
	}}})
	c := dial(t, path)
	for _, text := range []string{"at 1", "at 2", "\xff"} {
		answer <- text
		want := "\nDESCRIPTION " + text
		if text == "\xff" {
			want = ""
		}
		got := describe(c.option(optInfo, infoRequest("", infoDescription)))
		if !strings.Contains(got, want) || strings.Contains(got, "DESCRIPTION") != (want != "") {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestExportOptions(t *testing.T) {
	d := newMemDisk(memPage)
	tables := []struct {
		name    string
		exports []Export
		want    string
	}{
		{"none", nil, "no export"},
		{"no device", []Export{{Name: "a"}}, "no device"},
		{"same name", []Export{{Name: "a", Device: d}, {Name: "a", Device: d}}, "two exports"},
		{"name with nul", []Export{{Name: "\x00", Device: d}}, "NUL"},
		{"long name", []Export{{Name: strings.Repeat("x", 4097), Device: d}}, "4097"},
		{"description not utf-8", []Export{{Description: "\xff", Device: d}}, "UTF-8"},
		{"minimum", []Export{{Device: d, MinBlock: 3}}, "minimum block"},
		{"preferred", []Export{{Device: d, PreferredBlock: 256}}, "preferred block"},
		{"maximum", []Export{{Device: d, MaxBlock: 2048}}, "maximum block"},
		{"maximum beyond any buffer", []Export{{Device: d, MaxBlock: 1<<30 + 1}}, "maximum block"},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			err = (&Server{Exports: tt.exports}).Serve(l)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve: %v, want an error about %q", err, tt.want)
			}
		})
	}
}
