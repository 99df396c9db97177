package disk

import (
	"errors"
	"fmt"
	"sync"
)

// ErrFlushFailed is wrapped by every flush behind the first that failed on a FailStop device.
var ErrFlushFailed = errors.New("an earlier flush of this device failed")

// failStop is a device whose flushes agree. See FailStop.
type failStop struct {
	region
	mu     sync.Mutex
	failed error // guarded by mu; the first failed flush
}

// FailStop is dev with one rule more: flushes go one at a time, and once one has failed,
// every later one fails.
//
// A kernel tells of a failed write-back once, to whoever asks first, and marks the pages
// clean; a second flush of the same file, beside the first or after it, finds nothing to do
// and succeeds. Where two parts of a program flush one device (log and superblock of one
// file; log and homes, when the journal is inside the backing), the second would take bytes
// for durable that are lost. All of them must therefore flush through the same FailStop.
func FailStop(dev Device) Device {
	return &failStop{region: region{parent: dev, size: dev.Size()}}
}

// Flush flushes dev, unless a flush has failed before.
func (f *failStop) Flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return fmt.Errorf("%w: %w", ErrFlushFailed, f.failed)
	}
	f.failed = f.parent.Flush()
	return f.failed
}
