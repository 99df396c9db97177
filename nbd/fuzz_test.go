package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"
)

// handshake is what a client sends to reach the transmission with structured replies, or
// with extended headers.
func handshake(headers uint32) []byte {
	option := func(kind uint32, data []byte) []byte {
		return slices.Concat([]byte("IHAVEOPT"), be32(kind), be32(uint32(len(data))), data)
	}
	return slices.Concat(be32(3), option(headers, nil),
		option(optSetMetaContext, metaQuery("", "base:allocation")), option(optGo, infoRequest("")))
}

// What a fuzzed connection has negotiated before the input.
const (
	fuzzFresh uint8 = iota
	fuzzStructured
	fuzzExtended
)

// Any bytes from a client: no panic, an end, nothing left over, and what comes back is a
// stream that a client can follow.
func FuzzClient(f *testing.F) {
	requests := slices.Concat(
		encodeRequest(cmdWrite, 0, 1, 10, 5, []byte("hello")),
		encodeRequest(cmdRead, 0, 2, 0, 100, nil),
		encodeRequest(cmdFlush, 0, 3, 0, 0, nil),
		encodeRequest(cmdTrim, cfFUA, 4, 0, 4096, nil),
		encodeRequest(cmdWriteZeroes, cfNoHole, 5, 0, 4096, nil),
		encodeRequest(cmdBlockStatus, cfReqOne, 6, 0, 8192, nil),
		encodeRequest(cmdCache, 0, 7, 0, 8192, nil),
	)
	long := slices.Concat(
		encodeExtended(cmdWrite, cfPayload, 1, 10, 5, []byte("hello")),
		encodeExtended(cmdRead, 0, 2, 0, 100, nil),
		encodeExtended(cmdTrim, cfFUA, 4, 0, 1<<40, nil),
		encodeExtended(cmdBlockStatus, cfPayload, 6, 0, 12, append(make([]byte, 8), 0, 0, 0, 1)),
		encodeExtended(cmdFlush, cfPayload, 3, 0, 3, []byte("abc")),
		encodeExtended(cmdWrite, 0, 1, 10, 5, nil),
		encodeExtended(cmdBlockStatus, 0, 6, 0, 1<<63, nil),
	)
	f.Add(fuzzExtended, long)
	f.Add(fuzzExtended, long[:len(long)-50])
	f.Add(fuzzExtended, encodeExtended(cmdWrite, cfPayload, 1, 0, 1<<63, nil))
	f.Add(fuzzExtended, encodeExtended(cmdWrite, cfPayload, 8, 0, 70000, make([]byte, 70000)))
	f.Add(fuzzFresh, []byte{})
	f.Add(fuzzFresh, handshake(optStructuredReply))
	f.Add(fuzzStructured, requests)
	f.Add(fuzzStructured, append(bytes.Clone(requests), encodeRequest(cmdDisc, 0, 9, 0, 0, nil)...))
	f.Add(fuzzStructured, append(bytes.Clone(requests[:40]), 1, 2, 3))
	f.Add(fuzzStructured, encodeRequest(cmdWrite, 0, 8, 0, 70000, make([]byte, 70000)))
	f.Add(fuzzStructured, encodeRequest(cmdWrite, 0, 1, 0, 0xffffffff, nil))
	f.Add(fuzzStructured, encodeRequest(cmdRead, 0xffff, 1, 1<<63, 0xffffffff, nil))
	f.Add(fuzzFresh, append(be32(3), []byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\xff\xff\xff\xff\x00\x00")...))
	f.Add(fuzzFresh, append(be32(0), []byte("IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00")...))

	f.Fuzz(func(t *testing.T, kind uint8, input []byte) {
		d := newMemDisk(1 << 20)
		log := newEventLog()
		s := &Server{Exports: []Export{{Device: d}}, OnEvent: log.add, Workers: 2}
		if err := s.setUp(); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		near, far := socketPair(t)
		s.accepted(far)
		switch kind {
		case fuzzStructured:
			input = append(handshake(optStructuredReply), input...)
		case fuzzExtended:
			input = append(handshake(optExtendedHeaders), input...)
		}
		go func() { // ends when the server has taken or refused the input
			_, _ = near.Write(input)
			_ = near.(interface{ CloseWrite() error }).CloseWrite()
		}()
		_ = near.SetReadDeadline(time.Now().Add(patience))
		output, err := io.ReadAll(io.LimitReader(near, 1<<30))
		if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
			t.Fatal("the server hangs")
		}
		log.await(t, ofKind(ConnClosed))
		if held := s.Stats().BufferBytes; held != 0 {
			t.Errorf("%d bytes of buffers are left", held)
		}
		if kind == fuzzStructured || kind == fuzzExtended {
			followReplies(t, output)
		}
	})
}

// followReplies checks that what follows the negotiation of handshake is a stream of whole
// replies, but for the last one, which may be cut.
func followReplies(t *testing.T, out []byte) {
	out = out[min(18, len(out)):]
	for acks := 0; acks < 3 && len(out) >= 20; { // the replies to three options
		if binary.BigEndian.Uint32(out[12:]) == repAck {
			acks++
		}
		out = out[min(len(out), 20+int(binary.BigEndian.Uint32(out[16:]))):]
	}
	for len(out) >= 20 {
		switch binary.BigEndian.Uint32(out) {
		case magicSimpleReply:
			out = out[simpleReplySize:]
		case magicChunk:
			out = out[min(len(out), chunkHeaderSize+int(binary.BigEndian.Uint32(out[16:]))):]
		case magicExtendedChunk:
			if len(out) < extendedChunkSize {
				return
			}
			out = out[min(len(out), extendedChunkSize+int(binary.BigEndian.Uint64(out[24:]))):]
		default:
			t.Fatalf("reply magic is %x", out[:4])
		}
	}
}
