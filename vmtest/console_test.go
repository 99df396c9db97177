package vmtest

import (
	"strings"
	"testing"
)

func TestConsole(t *testing.T) {
	for _, c := range []struct {
		name   string
		text   string
		ready  bool
		ended  bool
		failed string
	}{
		{name: "nothing"},
		{name: "ready", text: "\r\n@@jnbd READY\r\n", ready: true},
		{name: "ready twice", text: "@@jnbd READY\n@@jnbd READY\n", ready: true},
		{name: "ready and end", text: "@@jnbd READY\n[ 1.0] noise\n@@jnbd END\n", ready: true, ended: true},
		{name: "behind a word of the kernel", text: "[ 1.0] nbd: x@@jnbd END\n", ended: true},
		{name: "end without a newline", text: "@@jnbd END", ended: true},
		{name: "end without a mark", text: "END\n"},
		{name: "a longer word", text: "@@jnbd ENDED\n"},
		{name: "failed", text: "@@jnbd FAIL mount proc: no such device\n", failed: "mount proc: no such device"},
		{name: "behind a very long line", text: strings.Repeat("x", 3*maxConsole) + "\n@@jnbd READY\n", ready: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			screen := newConsole()
			screen.watch(strings.NewReader(c.text))
			ready := false
			select {
			case <-screen.ready:
				ready = true
			default:
			}
			if ready != c.ready {
				t.Errorf("ready is %v, want %v", ready, c.ready)
			}
			if ended, failed := screen.verdict(); ended != c.ended || failed != c.failed {
				t.Errorf("ended %v, failed %q, want %v, %q", ended, failed, c.ended, c.failed)
			}
			if kept := screen.String(); len(kept) > maxConsole || !strings.HasSuffix(c.text, kept) {
				t.Errorf("kept %d bytes, want the end of the text, at most %d", len(kept), maxConsole)
			}
		})
	}
}
