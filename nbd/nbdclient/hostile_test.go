package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"jnbd/nbd"
)

// be puts numbers one behind the other as the protocol has them, by their type.
func be(fields ...any) []byte {
	var b bytes.Buffer
	for _, f := range fields {
		if text, ok := f.(string); ok {
			b.WriteString(text)
		} else if err := binary.Write(&b, binary.BigEndian, f); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

var greeting = be(magicServer, magicOption, handshakeFixed|handshakeNoZeroes)

// optionReply is one reply to an option.
func optionReply(option, kind uint32, data []byte) []byte {
	return be(magicOptionReply, option, kind, uint32(len(data)), data)
}

// yes is the answer to a GO.
func yes(size uint64) []byte {
	return append(optionReply(optionGo, replyInfo, be(infoExport, size, uint16(HasFlags))), optionReply(optionGo, replyAck, nil)...)
}

// scripted is a server that says script, whatever it hears, and then closes.
func scripted(t *testing.T, script ...[]byte) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	server, err := l.Accept()
	must(t, err)
	done := make(chan struct{})
	go func() { // ends with the script, or the client's end
		defer close(done)
		if _, err := server.Write(bytes.Join(script, nil)); err == nil {
			_ = server.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, server)
		}
		_ = server.Close()
	}()
	t.Cleanup(func() { _ = client.Close(); <-done })
	return client
}

func TestHostileHandshake(t *testing.T) {
	for _, c := range []struct {
		name   string
		script [][]byte
		want   string
	}{
		{"nothing", nil, "closed the connection"},
		{"another protocol", [][]byte{[]byte("SSH-2.0-OpenSSH_9.2\r\n")}, "is this an NBD server"},
		{"oldstyle", [][]byte{be(magicServer, magicOld, uint16(0))}, "oldstyle"},
		{"half a greeting", [][]byte{greeting[:12]}, "closed the connection"},
		{"no reply to GO", [][]byte{greeting}, "closed the connection"},
		{"wrong reply magic", [][]byte{greeting, make([]byte, 20)}, "option reply magic"},
		{"reply to another option", [][]byte{greeting, optionReply(3, replyAck, nil)}, "a reply to option 3"},
		{"reply without end", [][]byte{greeting, be(magicOptionReply, optionGo, replyInfo, uint32(1<<31))}, "at most"},
		{"no size", [][]byte{greeting, optionReply(optionGo, replyAck, nil)}, "how large"},
		{"size above 2^63", [][]byte{greeting, yes(1 << 63)}, "9223372036854775808"},
		{"short information", [][]byte{greeting, optionReply(optionGo, replyInfo, []byte{0}), yes(1)}, "information of 1 bytes"},
		{"information of a wrong length", [][]byte{greeting, optionReply(optionGo, replyInfo, be(infoExport, uint32(1))), yes(1)}, "has 4 bytes"},
		{"unknown export", [][]byte{greeting, optionReply(optionGo, uint32(RefusedUnknown), []byte("no such disk"))}, "no such disk"},
		{"refused without a word", [][]byte{greeting, optionReply(optionGo, uint32(RefusedPolicy), nil)}, "policy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := NewHandshake(limited(t), scripted(t, c.script...), Options{})
			if err == nil {
				_, _, err = h.Go(limited(t), "disk")
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A server that knows only EXPORT_NAME, with and without its zeroes.
func TestExportNameOnly(t *testing.T) {
	answer := be(uint64(4096), uint16(HasFlags|CanFlush))
	unsup := optionReply(optionGo, uint32(RefusedUnsupported), nil)
	for name, script := range map[string][][]byte{
		"no zeroes": {greeting, unsup, answer},
		"zeroes":    {be(magicServer, magicOption, handshakeFixed), unsup, answer, make([]byte, 124)},
		"not fixed": {be(magicServer, magicOption, uint16(0)), answer, make([]byte, 124)},
	} {
		t.Run(name, func(t *testing.T) {
			reply := be(magicSimpleReply, uint32(0), uint64(1))
			h, err := NewHandshake(limited(t), scripted(t, append(script, reply)...), Options{})
			must(t, err)
			conn, info, err := h.Go(limited(t), "disk")
			if err != nil || info.Size != 4096 || !info.Has(CanFlush) {
				t.Fatalf("%+v, %v", info, err)
			}
			// Nothing of what follows the handshake was swallowed.
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, reply) {
				t.Errorf("behind the handshake: %x, %v, want %x", got, err, reply)
			}
		})
	}
}

// A handshake that a server leaves hanging ends with its context.
func TestSilentServer(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { // ends at once: the client reads the first half of the greeting
		_, _ = server.Write(greeting[:8])
		cancel(cause)
	}()
	if _, err := NewHandshake(ctx, client, Options{}); !errors.Is(err, cause) {
		t.Errorf("%v, want %v", err, cause)
	}
}

// TLS is upgraded to, or there is no handshake at all.
func TestUpgrade(t *testing.T) {
	tls := optionReply(optionStartTLS, replyAck, nil)
	h, err := NewHandshake(limited(t), scripted(t, greeting, tls), Options{
		Upgrade: func(net.Conn) (net.Conn, error) { return scripted(t, yes(4096)), nil },
	})
	must(t, err)
	if _, info, err := h.Go(limited(t), ""); err != nil || info.Size != 4096 {
		t.Errorf("behind the upgrade: %+v, %v", info, err)
	}
	refusal := optionReply(optionStartTLS, uint32(RefusedUnsupported), nil)
	_, err = NewHandshake(limited(t), scripted(t, greeting, refusal, yes(4096)), Options{
		Upgrade: func(net.Conn) (net.Conn, error) { t.Error("upgraded"); return nil, io.EOF },
	})
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("refused TLS: %v", err)
	}
}

// chunk is one chunk of a structured reply to the first request.
func chunk(flags, kind uint16, payload []byte) []byte {
	return be(magicChunk, flags, kind, uint64(1), uint32(len(payload)), payload)
}

func TestHostileReplies(t *testing.T) {
	read := Request{Command: Read, Offset: 100, Data: make([]byte, 10)}
	status := Request{Command: BlockStatus, Length: 10}
	data := func(offset uint64, text string) []byte { return chunk(0, chunkOffsetData, be(offset, text)) }
	last := chunk(chunkDone, chunkNone, nil)
	for _, c := range []struct {
		name    string
		request Request
		script  [][]byte
		data    string // what a read has got
		want    string // part of the error; "" for success
	}{
		{"in two pieces", read, [][]byte{data(105, "56789"), data(100, "01234"), last}, "0123456789", ""},
		{"data and hole", read, [][]byte{data(100, "01234"), chunk(chunkDone, chunkOffsetHole, be(uint64(105), uint32(5)))}, "01234\x00\x00\x00\x00\x00", ""},
		{"error chunk", read, [][]byte{data(100, "01234"), chunk(chunkDone, chunkErrors+1, be(uint32(5), uint16(3), "sad"))}, "", "sad"},
		{"error, then the end", read, [][]byte{chunk(0, chunkErrorOffset, be(uint32(5), uint16(3), "sad", uint64(100))), last}, "", "sad"},
		{"piece missing", read, [][]byte{data(100, "01234"), last}, "", "10 bytes has 5"},
		{"before the range", read, [][]byte{data(99, "0"), last}, "", "at 99"},
		{"beyond the range", read, [][]byte{data(109, "01"), last}, "", "at 109"},
		{"far beyond", read, [][]byte{data(1<<63, "0"), last}, "", "9223372036854775808"},
		{"hole too large", read, [][]byte{chunk(1, chunkOffsetHole, be(uint64(100), uint32(1<<31)))}, "", "2147483648 bytes"},
		{"simple reply", read, [][]byte{be(magicSimpleReply, uint32(0), uint64(1), "0123456789")}, "", "simple reply to a read"},
		{"data for another", status, [][]byte{data(0, "01"), last}, "", "in the reply to a block status"},
		{"unknown kind", read, [][]byte{chunk(1, 99, nil)}, "", "kind 99"},
		{"unknown request", read, [][]byte{be(magicSimpleReply, uint32(0), uint64(7))}, "", "request 7"},
		{"bad magic", read, [][]byte{be(uint32(7))}, "", "magic is 0x7"},
		{"none chunk with payload", read, [][]byte{chunk(1, chunkNone, []byte{1})}, "", "empty chunk"},
		{"error without number", read, [][]byte{chunk(1, chunkErrors+1, be(uint32(0), uint16(0)))}, "", "error 0"},
		{"text longer than its chunk", read, [][]byte{chunk(1, chunkErrors+1, be(uint32(5), uint16(9), "x"))}, "", "9 bytes of text"},
		{"endless error", read, [][]byte{be(magicChunk, uint16(1), chunkErrors+1, uint64(1), uint32(1<<31))}, "", "2147483648"},
		{"endless status", status, [][]byte{be(magicChunk, uint16(1), chunkBlockStatus, uint64(1), uint32(1<<31+4))}, "", "2147483652"},
		{"foreign context", status, [][]byte{chunk(1, chunkBlockStatus, be(uint32(9), uint32(10), uint32(0)))}, "", "not selected"},
		{"closed in the middle", read, [][]byte{data(100, "01234")[:20]}, "", "closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range read.Data {
				read.Data[i] = '?'
			}
			conn, peer := net.Pipe() // the script waits for the request
			done := make(chan struct{})
			go func() { // ends with the script, at the latest with the client
				defer close(done)
				_, _ = io.ReadFull(peer, make([]byte, requestSize))
				_, _ = peer.Write(bytes.Join(c.script, nil))
				_ = peer.Close()
			}()
			client := NewClient(conn, Info{Size: 1 << 20, Structured: true, Contexts: map[uint32]string{1: "base:allocation"}})
			_, err := client.Do(c.request)
			_ = client.Close()
			<-done
			switch {
			case c.want == "" && (err != nil || string(read.Data) != c.data):
				t.Errorf("%v, %q, want %q", err, read.Data, c.data)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Close ends what is under way, and nothing writes to a call's buffer afterwards.
func TestCloseEndsCalls(t *testing.T) {
	conn, peer := net.Pipe()
	c := NewClient(conn, Info{Size: 1 << 20})
	done := make(chan *Call, 2)
	closed := make(chan struct{})
	go func() { // ends with the close
		defer close(closed)
		_, _ = io.ReadFull(peer, make([]byte, 2*requestSize))
		_, _ = peer.Write(be(magicSimpleReply, uint32(0), uint64(2), "half"))
		_ = c.Close()
	}()
	c.Start(Request{Command: Flush}, done)
	c.Start(Request{Command: Read, Data: make([]byte, 100)}, done)
	for range 2 {
		call := <-done
		if !errors.Is(call.Err, ErrClosed) {
			t.Errorf("%v: %v", call.Request.Command, call.Err)
		}
		clear(call.Request.Data) // the race detector watches
	}
	if _, err := c.Do(Request{Command: Flush}); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	<-closed
	_ = peer.Close()
}

// What a user reads.
func TestErrorText(t *testing.T) {
	err := &RequestError{Command: Write, Offset: 4096, Length: 512, Errno: nbd.ENOSPC, Text: "past the end"}
	if got, want := err.Error(), "write of 512 bytes at 4096: server says ENOSPC: past the end"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
