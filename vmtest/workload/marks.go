package workload

import (
	"bytes"
	"encoding/json"
	"fmt"

	"jnbd/powercut"
)

// MarkBytes is the size of a mark on the disk: one sector, which no disk tears.
const MarkBytes = 512

// markMagic begins a mark.
var markMagic = []byte("jnbdmark")

// Kind is what a mark says.
type Kind string

const (
	// Begin: the disk is made, and what the workload stands on is durable. Cuts before it
	// mean nothing.
	Begin Kind = "begin"
	// Done: the operations up to number Done, from 1 on, are durable.
	Done Kind = "done"
	// Answered: Request, which has number Number, was answered.
	Answered Kind = "answered"
	// End: the workload is over. A log without it is of a guest that died.
	End Kind = "end"
)

// Mark is an acknowledgement. Marks are numbered from 0 on, in the order in which they were
// written.
type Mark struct {
	Seq     int64             `json:"seq"`
	Kind    Kind              `json:"kind"`
	Done    int               `json:"done,omitempty"`
	Number  uint64            `json:"number,omitempty"`
	Request *powercut.Request `json:"request,omitempty"`
}

// Encode fills sector, MarkBytes long: magic, JSON, zeros.
func (m Mark) Encode(sector []byte) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode a mark: %w", err)
	}
	if len(markMagic)+len(text) > MarkBytes {
		return fmt.Errorf("encode a mark: %d bytes, at most %d fit", len(text), MarkBytes-len(markMagic))
	}
	clear(sector[:MarkBytes])
	copy(sector[copy(sector, markMagic):], text)
	return nil
}

// DecodeMark reads what Encode wrote.
func DecodeMark(sector []byte) (m Mark, err error) {
	text, ok := bytes.CutPrefix(sector, markMagic)
	if len(sector) != MarkBytes || !ok {
		return Mark{}, fmt.Errorf("decode a mark: %d bytes that begin with %.8q, want %d with %q", len(sector), sector, MarkBytes, markMagic)
	}
	if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &m); err != nil {
		return Mark{}, fmt.Errorf("decode a mark: %w", err)
	}
	return m, nil
}
