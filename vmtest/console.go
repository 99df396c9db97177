package vmtest

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"sync"

	"jnbd/vmtest/step"
)

// maxConsole is how much of the end of a console is kept, in bytes.
const maxConsole = 64 << 10

// console watches a machine's first serial port: the kernel's words, and init's marks.
type console struct {
	ready chan struct{} // closed at the first READY

	mu     sync.Mutex
	text   bytes.Buffer // the last maxConsole bytes
	ended  bool         // END was seen
	failed string       // what init gave as the reason to FAIL
}

func newConsole() *console {
	return &console{ready: make(chan struct{})}
}

// watch reads the console to its end, which is the end of QEMU.
func (c *console) watch(port io.Reader) {
	lines := bufio.NewReaderSize(port, 4<<10)
	isReady := false
	for {
		// ReadSlice, so that a guest that prints without end can't fill memory: what
		// exceeds the buffer comes as several pieces.
		piece, err := lines.ReadSlice('\n')
		word := c.note(piece)
		if word == step.Ready && !isReady {
			isReady = true
			close(c.ready)
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// note keeps a line and returns the word behind its mark, "" for a line without one.
func (c *console) note(line []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.Write(line)
	if over := c.text.Len() - maxConsole; over > 0 {
		c.text.Next(over)
	}
	// The kernel may have printed on the same line before the mark.
	_, marked, ok := strings.Cut(string(line), step.Mark)
	if !ok {
		return ""
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(marked), " ")
	switch word {
	case step.End:
		c.ended = true
	case step.Fail:
		c.failed = rest
	}
	return word
}

// verdict says whether init ended in order, and if not, why if it said so.
func (c *console) verdict() (ended bool, failed string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.failed
}

// String is the end of what was printed.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}
