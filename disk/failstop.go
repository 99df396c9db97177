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

// FlushFailed is the first failed flush of dev, if FailStop returned dev, or nil.
func FlushFailed(dev Device) error {
	f, ok := dev.(*failStop)
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// Stop makes every later flush of dev, which FailStop returned, fail with cause, unless one
// has failed before. A flush that is under way ends first. It returns the device below: the
// caller may write there and flush what it has written since the call. Nobody takes
// that flush for another's, and it says nothing of what was written before.
func Stop(dev Device, cause error) Device {
	f, ok := dev.(*failStop)
	if !ok {
		return dev
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = cause
	}
	return f.parent
}
