package powercut

import (
	"compress/gzip"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// Clock stamps everything that happens in a run, from 1 on. 0 means never.
type Clock struct{ now atomic.Int64 }

// Next is a stamp later than all before it.
func (c *Clock) Next() int64 { return c.now.Add(1) }

// EventKind is what an operation of the disk was.
type EventKind uint8

const (
	// EventWrite wrote Data, or zeros where Data is nil.
	EventWrite EventKind = iota
	// EventFlush made durable what had returned before it began.
	EventFlush
)

// The recorded disks.
const (
	backingDisk = iota // the homes, and an internal journal
	journalDisk        // the journal beside them, if it is not internal
)

// diskNames are what they are called in the crashdisk's group.
var diskNames = [...]string{"backing", "journal"}

// Event is one operation of a recorded disk. It is never modified once it has ended.
type Event struct {
	Disk   int // backingDisk or journalDisk
	Kind   EventKind
	Off, N int64  // bytes
	Data   []byte // N bytes; nil: zeros
	Punch  bool   // of zeros: the space was given back
	// Begin and End are when it was called and when it returned. End is 0 for an operation
	// that had not returned when the recording ended.
	Begin, End int64
}

func (e *Event) String() string {
	name := diskNames[e.Disk]
	switch {
	case e.Kind == EventFlush:
		return "flush " + name
	case e.Data == nil:
		return fmt.Sprintf("zero %s [%#x,+%d)", name, e.Off, e.N)
	}
	return fmt.Sprintf("write %s [%#x,+%d)", name, e.Off, e.N)
}

// Recording is a run: what the disk was asked, and what clients were told.
type Recording struct {
	Version int
	// DeviceBytes are the recorded disks: one with an internal journal, two without.
	DeviceBytes []int64
	DiskBytes   int64 // the served disk
	Mode        string
	Seed        uint64
	// Created is when `jnbd create` had returned: from then on there is a disk.
	Created int64
	// Copied says that the disk was created elsewhere and copied: what happened before
	// Created is no creation, and cuts in it mean nothing.
	Copied bool
	// Events in the order of Begin. Before them the disks are all durable zeros.
	Events []Event
	// Requests in the order of their numbers: Requests[i] has number i+1.
	Requests []Request
}

// recordingVersion changes when a saved recording can't be read as before.
const recordingVersion = 1

// Save writes the recording to a new file.
func (r *Recording) Save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save recording: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("save recording %s: %w", path, err)
		}
	}()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	r.Version = recordingVersion
	return errors.Join(gob.NewEncoder(z).Encode(r), z.Close())
}

// LoadRecording reads what Save wrote.
func LoadRecording(path string) (*Recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load recording: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("load recording %s: %w", path, err)
	}
	r := &Recording{}
	if err := gob.NewDecoder(z).Decode(r); err != nil {
		return nil, fmt.Errorf("load recording %s: %w", path, err)
	}
	if r.Version != recordingVersion {
		return nil, fmt.Errorf("load recording %s: version %d, want %d: record it again", path, r.Version, recordingVersion)
	}
	return r, nil
}
