package main

import (
	"sync"

	"jnbd/journal"
)

// liveDisk is the disk of an export as its clients use it. It can be closed and opened again
// under them, larger: requests that come meanwhile wait. Each call holds mu for reading, and
// who exchanges the disk for writing.
type liveDisk struct {
	mu     sync.RWMutex
	disk   *journal.Disk
	failed error // set when there is no disk any more
}

// exchange calls open when no request is in the disk, and serves what it returns from then
// on. After an error every request fails with it.
func (l *liveDisk) exchange(open func() (*journal.Disk, error)) (*journal.Disk, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.disk, l.failed = open()
	}
	return l.disk, l.failed
}

func (l *liveDisk) Size() (int64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return 0, l.failed
	}
	return l.disk.Size()
}

func (l *liveDisk) ReadAt(p []byte, off int64) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return 0, l.failed
	}
	return l.disk.ReadAt(p, off)
}

func (l *liveDisk) ReadCachedAt(p []byte, off int64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.failed == nil && l.disk.ReadCachedAt(p, off)
}

func (l *liveDisk) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return l.failed
	}
	return l.disk.WriteBatch(data, offsets, flush, admit)
}

func (l *liveDisk) WritesDirect() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.failed == nil && l.disk.WritesDirect()
}

func (l *liveDisk) Zero(off, n int64, punch bool, admit func() bool) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return l.failed
	}
	return l.disk.Zero(off, n, punch, admit)
}

func (l *liveDisk) Trim(off, n int64, admit func() bool) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return l.failed
	}
	return l.disk.Trim(off, n, admit)
}

func (l *liveDisk) Sync() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return l.failed
	}
	return l.disk.Sync()
}

func (l *liveDisk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return l.failed
	}
	return l.disk.Extents(off, n, visit)
}

// Incarnation is the disk's (decision 12); none once there is no disk.
func (l *liveDisk) Incarnation() (incarnation, seq uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed != nil {
		return 0, 0
	}
	return l.disk.Incarnation()
}
