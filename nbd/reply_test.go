package nbd

import (
	"encoding/hex"
	"strings"
	"testing"
)

// The bytes of replies and requests, written out by hand from proto.md.
func TestGoldenBytes(t *testing.T) {
	const cookie = 0x0102030405060708
	a := asked{cookie, 0x1100}
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"simple", appendSimple(nil, cookie, 0), "67446698 00000000 0102030405060708"},
		{"simple error", simple.appendFailure(nil, a, ESHUTDOWN, "unused"), "67446698 0000006c 0102030405060708"},
		{"none", structured.appendNone(nil, a), "668e33ef 0001 0000 0102030405060708 00000000"},
		{"data", structured.appendData(nil, chunkDone, a, 0x1122, 0x1000), "668e33ef 0001 0001 0102030405060708 00001008 0000000000001122"},
		{"hole", structured.appendHole(nil, 0, a, 0x1122, 0x1000), "668e33ef 0000 0002 0102030405060708 0000000c 0000000000001122 00001000"},
		{"error", structured.appendFailure(nil, a, ENOSPC, "no"), "668e33ef 0001 8001 0102030405060708 00000008 0000001c 0002 6e6f"},
		{"structured success", structured.appendSuccess(nil, a), "67446698 00000000 0102030405060708"},
		{"extended success", extended.appendSuccess(nil, a), "6e8a278c 0001 0000 0102030405060708 0000000000001100 0000000000000000"},
		{"extended data", extended.appendData(nil, chunkDone, a, 0x1122, 0x1000), "6e8a278c 0001 0001 0102030405060708 0000000000001100 0000000000001008 0000000000001122"},
		{"extended hole", extended.appendHole(nil, 0, a, 0x1122, 0x1000), "6e8a278c 0000 0002 0102030405060708 0000000000001100 000000000000000c 0000000000001122 00001000"},
		{"extended error", extended.appendFailure(nil, a, ENOSPC, "no"), "6e8a278c 0001 8001 0102030405060708 0000000000001100 0000000000000008 0000001c 0002 6e6f"},
		{"extent", structured.appendExtent(nil, 0x1000, 3), "00001000 00000003"},
		{"extended extent", extended.appendExtent(nil, 1<<40, 3), "0000010000000000 0000000000000003"},
		{"extended request", encodeExtended(cmdWrite, cfFUA|cfPayload, cookie, 0x1122, 3, []byte("abc")), "21e41c71 0021 0001 0102030405060708 0000000000001122 0000000000000003 616263"},
		{"request", encodeRequest(cmdWrite, cfFUA, cookie, 0x1122, 3, []byte("abc")), "25609513 0001 0001 0102030405060708 0000000000001122 00000003 616263"},
	} {
		if got, want := hex.EncodeToString(tt.got), strings.ReplaceAll(tt.want, " ", ""); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
	for _, tt := range []struct {
		style style
		bytes string
		want  request
	}{
		{structured, "25609513 0012 0006 0102030405060708 0000010000000000 80000000", request{flags: 0x12, cmd: 6, asked: asked{cookie, 1 << 40}, length: 1 << 31}},
		{simple, "25609513 0000 0001 0102030405060708 0000010000000000 00001000", request{cmd: 1, asked: asked{cookie, 1 << 40}, length: 4096, payload: 4096}},
		{extended, "21e41c71 0012 0006 0102030405060708 0000010000000000 8000000000000000", request{flags: 0x12, cmd: 6, asked: asked{cookie, 1 << 40}, length: 1 << 63}},
		{extended, "21e41c71 0020 0001 0102030405060708 0000010000000000 0000000000001000", request{flags: 0x20, cmd: 1, asked: asked{cookie, 1 << 40}, length: 4096, payload: 4096}},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(tt.bytes, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := tt.style.decode(b); !ok || r != tt.want {
			t.Errorf("%s: decoded %+v, %v, want %+v", tt.bytes, r, ok, tt.want)
		}
		b[0] ^= 1
		if _, ok := tt.style.decode(b); ok {
			t.Errorf("%s: decoded with a wrong magic", tt.bytes)
		}
	}
}

// An error's text is cut at a character's end.
func TestClip(t *testing.T) {
	long := strings.Repeat("ü", maxErrorText)
	for _, tt := range []struct{ text, want string }{
		{"short", "short"},
		{long, long[:maxErrorText]},
		{"x" + long, "x" + long[:maxErrorText-2]},
	} {
		if got := clip(tt.text); got != tt.want {
			t.Errorf("clip of %d bytes has %d, want %d", len(tt.text), len(got), len(tt.want))
		}
	}
}
