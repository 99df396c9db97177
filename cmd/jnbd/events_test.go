package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"jnbd/nbd"
)

// TestSlowLines: a medium that hangs makes every request slow, and not every one a line; none
// is forgotten.
func TestSlowLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &eventLog{log: zerolog.New(&out)}
		slow := nbd.Event{Kind: nbd.RequestSlow, Command: nbd.CommandWrite, Offset: 4096, Length: 512, Took: 1500 * time.Millisecond}
		for range 1000 {
			l.add(slow)
		}
		l.add(nbd.Event{Kind: nbd.ConnRefused}) // others are not held back
		if n := strings.Count(out.String(), "slow request"); n != slowLines {
			t.Errorf("%d lines, want %d", n, slowLines)
		}
		if !strings.Contains(out.String(), "connection refused") {
			t.Error("other events were held back, too")
		}
		want := `{"level":"warn","command":"write","offset_bytes":4096,"length_bytes":512,"fua":false,"took_ms":1500,"message":"slow request"}`
		if first, _, _ := strings.Cut(out.String(), "\n"); first != want {
			t.Errorf("the line is %s\nwant %s", first, want)
		}
		out.Reset()
		time.Sleep(slowEvery) // of the bubble: it takes no time
		l.add(slow)
		if !strings.Contains(out.String(), `"not_logged":990`) {
			t.Errorf("the next line does not say how many there were: %s", out.String())
		}
	})
}
