package nbd

import (
	"encoding/hex"
	"strings"
	"testing"
)

// The bytes of replies and requests, written out by hand from proto.md.
func TestGoldenBytes(t *testing.T) {
	const cookie = 0x0102030405060708
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"simple", appendSimple(nil, cookie, 0), "67446698 00000000 0102030405060708"},
		{"simple error", appendFailure(nil, false, cookie, ESHUTDOWN, "unused"), "67446698 0000006c 0102030405060708"},
		{"none", appendNone(nil, cookie), "668e33ef 0001 0000 0102030405060708 00000000"},
		{"data", appendData(nil, chunkDone, cookie, 0x1122, 0x1000), "668e33ef 0001 0001 0102030405060708 00001008 0000000000001122"},
		{"hole", appendHole(nil, 0, cookie, 0x1122, 0x1000), "668e33ef 0000 0002 0102030405060708 0000000c 0000000000001122 00001000"},
		{"error", appendFailure(nil, true, cookie, ENOSPC, "no"), "668e33ef 0001 8001 0102030405060708 00000008 0000001c 0002 6e6f"},
		{"request", encodeRequest(cmdWrite, cfFUA, cookie, 0x1122, 3, []byte("abc")), "25609513 0001 0001 0102030405060708 0000000000001122 00000003 616263"},
	} {
		if got, want := hex.EncodeToString(tt.got), strings.ReplaceAll(tt.want, " ", ""); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
	r, ok := decodeRequest(encodeRequest(cmdWriteZeroes, cfFastZero|cfNoHole, cookie, 1<<40, 1<<31, nil))
	if want := (request{0x12, 6, cookie, 1 << 40, 1 << 31}); !ok || r != want {
		t.Errorf("decoded %+v, %v, want %+v", r, ok, want)
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
