package wal

import (
	"fmt"
	"strings"
	"time"
)

// Kind is what a frame is for.
type Kind uint8

const (
	// KindRecords holds records of the caller, or none and is a barrier.
	KindRecords Kind = 1
	// KindStart is the first frame of an epoch. It is durable before any other is written.
	KindStart Kind = 2
	// KindPad fills the rest of a segment that the next frame doesn't fit in.
	KindPad Kind = 3
	// KindSummary is the first frame of a segment and an index of the segment before.
	KindSummary Kind = 4
)

func (k Kind) String() string {
	switch k {
	case KindRecords:
		return "records"
	case KindStart:
		return "start"
	case KindPad:
		return "pad"
	case KindSummary:
		return "summary"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Flags are properties of a frame.
type Flags uint8

const (
	// FlagBarrier: the frame ends a transaction. Once flushed, everything up to its end is
	// a durable point. START frames are barriers too.
	FlagBarrier Flags = 1 << 0
	// FlagMore: the request of the last record goes on in the next RECORDS frame.
	FlagMore Flags = 1 << 1
	// FlagAligned: the frame starts on a 4 KiB line because it is the first after a flush.
	FlagAligned Flags = 1 << 2
	// FlagIncomplete: the SUMMARY has no index, because it would have been too long.
	FlagIncomplete Flags = 1 << 3

	knownFlags = FlagBarrier | FlagMore | FlagAligned | FlagIncomplete
)

func (f Flags) String() string {
	names := []string{"barrier", "more", "aligned", "incomplete"}
	var on []string
	for i, name := range names {
		if f&(1<<i) != 0 {
			on = append(on, name)
		}
	}
	if rest := f &^ knownFlags; rest != 0 {
		on = append(on, fmt.Sprintf("%#x", uint8(rest)))
	}
	return strings.Join(on, ",")
}

// Record is one change that the caller hands to Append.
type Record struct {
	// Kind is 1 to 127 and the caller's to define.
	Kind uint8
	// More: the next record of the same batch belongs to the same request. A scan keeps
	// all records of a request, or none.
	More bool
	Aux  uint32
	A, B uint64
	// Payload is at most MaxRecordPayload bytes. The log only reads it, during Append.
	Payload []byte
	// Beside is how many bytes the record speaks of that lie beside the log, and that its next
	// flush makes durable as well (Options.FlushBeside). It is not stored.
	Beside int64
}

// Located is a Record that was found in the log. Its payload is at PayloadPos.
type Located struct {
	Kind       uint8
	More       bool
	Aux        uint32
	A, B       uint64
	PayloadPos int64
	PayloadLen uint32
	PayloadCRC uint32 // CRC32C of the payload alone
}

// Frame is a frame as a scan shows it.
type Frame struct {
	Kind   Kind
	Flags  Flags
	Pos    int64
	Length int64 // in bytes, a multiple of LineBytes
	Seq    uint64
	Epoch  Epoch
	Time   time.Time
	// Tail and DurableUpTo are what the writer knew when it wrote the frame; of a frame
	// that was taken from a SUMMARY, what it knew at the summary.
	Tail, DurableUpTo int64
	Node              uint32
	// Previous is the epoch before, of a START frame.
	Previous Epoch
	// Records are valid only during the visit. A START frame shows none.
	Records []Located
}

// End is the position behind the frame.
func (f *Frame) End() int64 { return f.Pos + f.Length }

// Point is a barrier: the position behind its frame, the frame's sequence number and time.
type Point struct {
	Pos  int64
	Seq  uint64
	Time time.Time
}

// Start is where a scan begins. The superblock keeps it. The zero Start is the one of a
// log that was just formatted.
type Start struct {
	Tail        int64  // position; everything before it is not needed any more
	TailSeq     uint64 // sequence number of the first frame at or after Tail
	Epoch       Epoch  // of the chain before that frame
	DurableUpTo int64  // everything before this position is durable
}
