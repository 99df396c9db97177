package powercut

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"jnbd/disk"
)

// tape is what recorders note their operations on, in one order.
type tape struct {
	clock *Clock

	mu     sync.Mutex
	events []Event // guarded by mu; in the order of Begin
}

// Events are the operations so far. Those that have not returned have no End.
func (t *tape) Events() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.events)
}

// begin notes a call and returns its index.
func (t *tape) begin(e Event) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Begin = t.clock.Next()
	t.events = append(t.events, e)
	return len(t.events) - 1
}

// end notes the return of call i.
func (t *tape) end(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events[i].End = t.clock.Next()
}

// Recorder is a disk in memory that notes every change and every flush, with the stamps of
// its call and its return. It is a disk.Device, and Export makes an NBD device of it. All
// methods may be called at the same time.
//
// It does not lie: a flush covers what had returned when it was called. What a power cut
// would have left is decided later, from the notes.
type Recorder struct {
	tape *tape
	disk int // its number on the tape
	// flushTime is how long a flush takes. Without it nothing would ever run beside one.
	flushTime time.Duration

	mu   sync.RWMutex
	data []byte // guarded by mu; its length never changes
}

var _ disk.Zeroer = (*Recorder)(nil)

// newRecorder returns a disk of size bytes, all zeros. Each flush takes at least flushTime.
func newRecorder(tape *tape, disk int, size int64, flushTime time.Duration) *Recorder {
	return &Recorder{tape: tape, disk: disk, flushTime: flushTime, data: make([]byte, size)}
}

// change performs a write or zeroing from its call to its return.
func (r *Recorder) change(e Event) error {
	if err := disk.CheckRange(e.Off, e.N, int64(len(r.data))); err != nil {
		return fmt.Errorf("recorder: %w", err)
	}
	e.Disk = r.disk
	i := r.tape.begin(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	part := r.data[e.Off : e.Off+e.N]
	if e.Data == nil {
		clear(part)
	} else {
		copy(part, e.Data)
	}
	r.tape.end(i) // under mu: effects have the order of their ends, as in the replay
	return nil
}

// Size is the length in bytes.
func (r *Recorder) Size() int64 { return int64(len(r.data)) }

// ReadAt fills p with the newest bytes.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) {
	if err := disk.CheckRange(off, int64(len(p)), r.Size()); err != nil {
		return 0, fmt.Errorf("recorder: %w", err)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return copy(p, r.data[off:]), nil
}

// WriteAt writes p at off. Zeros are noted without their bytes.
func (r *Recorder) WriteAt(p []byte, off int64) (int, error) {
	e := Event{Kind: EventWrite, Off: off, N: int64(len(p))}
	if !isZero(p) {
		e.Data = bytes.Clone(p)
	}
	if err := r.change(e); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero makes [off, off+n) zeros.
func (r *Recorder) Zero(off, n int64, punch bool) error {
	return r.change(Event{Kind: EventWrite, Off: off, N: n, Punch: punch})
}

// Flush makes durable what returned before it was called.
func (r *Recorder) Flush() error {
	i := r.tape.begin(Event{Disk: r.disk, Kind: EventFlush})
	time.Sleep(r.flushTime) // the disk that is simulated takes that long
	r.tape.end(i)
	return nil
}

// isZero reports whether p is all zeros.
func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroes))
		if !bytes.Equal(p[:n], zeroes[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

// zeroes is what isZero compares with.
var zeroes [4096]byte

// Export is the recorder as package nbd serves it.
type Export struct{ *Recorder }

// Size is the length in bytes; the error is nil.
func (x Export) Size() (int64, error) { return x.Recorder.Size(), nil }

// WriteBatch performs the writes in their order, each an operation of its own.
func (x Export) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	admit() // a dead client's write may still reach a disk; ours has one client
	for i, p := range data {
		if _, err := x.WriteAt(p, offsets[i]); err != nil {
			return err
		}
	}
	return nil
}

// Zero makes [off, off+n) zeros.
func (x Export) Zero(off, n int64, punch bool, admit func() bool) error {
	admit()
	return x.Recorder.Zero(off, n, punch)
}

// Trim is Zero with punch: it is what nbdfuse sends for a hole to be punched into a file,
// and that promises zeros.
func (x Export) Trim(off, n int64, admit func() bool) error { return x.Zero(off, n, true, admit) }

// Sync is Flush.
func (x Export) Sync() error { return x.Flush() }

// Extents says that all of it is data.
func (x Export) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	visit(off, n, false, false)
	return nil
}
