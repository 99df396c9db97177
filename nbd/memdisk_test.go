package nbd

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// memPage is the granularity at which a memDisk knows its holes.
const memPage = 4096

// memDisk is a disk in memory. A page that was never written is a hole.
type memDisk struct {
	// Hooks, set before the disk is served. Each may block.
	beforeAdmit func()                  // in every change, before it asks to be admitted
	beforeRead  func()                  // in every ReadAt
	beforeSync  func()                  // in every Sync
	fail        func(what string) error // may fail an operation
	notCached   atomic.Bool             // ReadCachedAt always says no
	dropped     error                   // what refused changes return, if not ErrDropped

	mu    sync.Mutex
	data  []byte
	held  []bool
	order []int64 // offsets of the writes, as they were admitted

	writes, batches, foretold, syncs, reads, cachedReads atomic.Int64
}

func newMemDisk(size int) *memDisk {
	return &memDisk{data: make([]byte, size), held: make([]bool, (size+memPage-1)/memPage)}
}

func call(hook func()) {
	if hook != nil {
		hook()
	}
}

func (d *memDisk) failure(what string) error {
	if d.fail != nil {
		return d.fail(what)
	}
	return nil
}

func (d *memDisk) refused() error {
	if d.dropped != nil {
		return d.dropped
	}
	return ErrDropped
}

func (d *memDisk) Size() (int64, error) { return int64(len(d.data)), d.failure("size") }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	call(d.beforeRead)
	if err := d.failure("read"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(p, d.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDisk) ReadCachedAt(p []byte, off int64) bool {
	if d.notCached.Load() || d.failure("read") != nil {
		return false
	}
	d.cachedReads.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.data[off:]) == len(p)
}

func (d *memDisk) WriteBatch(data [][]byte, offsets []int64, flush bool, admit func() bool) error {
	call(d.beforeAdmit)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure("write"); err != nil {
		return err
	}
	if !admit() {
		return d.refused()
	}
	d.batches.Add(1)
	if flush {
		d.foretold.Add(1)
	}
	for i, p := range data {
		if n := copy(d.data[offsets[i]:], p); n < len(p) {
			panic(fmt.Sprintf("write of %d bytes at %d was not checked", len(p), offsets[i]))
		}
		d.markLocked(offsets[i], int64(len(p)), true)
		d.order = append(d.order, offsets[i])
		d.writes.Add(1)
	}
	return nil
}

func (d *memDisk) Zero(off, n int64, punch bool, admit func() bool) error {
	call(d.beforeAdmit)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure("zero"); err != nil {
		return err
	}
	if !admit() {
		return d.refused()
	}
	clear(d.data[off : off+n])
	if punch {
		d.punchLocked(off, n)
	} else {
		d.markLocked(off, n, true)
	}
	return nil
}

func (d *memDisk) Trim(off, n int64, admit func() bool) error { return d.Zero(off, n, true, admit) }

// markLocked sets what is known of the pages that [off, off+n) touches.
func (d *memDisk) markLocked(off, n int64, held bool) {
	for page := off / memPage; page*memPage < off+n; page++ {
		d.held[page] = held
	}
}

// punchLocked makes holes of the pages that lie whole in [off, off+n).
func (d *memDisk) punchLocked(off, n int64) {
	first := (off + memPage - 1) / memPage * memPage
	last := (off + n) / memPage * memPage
	if last > first {
		d.markLocked(first, last-first, false)
	}
}

func (d *memDisk) Sync() error {
	d.syncs.Add(1)
	call(d.beforeSync)
	return d.failure("sync")
}

func (d *memDisk) Extents(off, n int64, visit func(off, n int64, hole, zero bool) bool) error {
	if err := d.failure("extents"); err != nil {
		return err
	}
	for end := off + n; off < end; {
		next := min((off/memPage+1)*memPage, end)
		d.mu.Lock()
		hole := !d.held[off/memPage]
		d.mu.Unlock()
		if !visit(off, next-off, hole, hole) {
			return nil
		}
		off = next
	}
	return nil
}

// content is a copy of [off, off+n).
func (d *memDisk) content(off, n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.data[off:off+n]...)
}

// growingDisk is a memDisk whose size changes.
type growingDisk struct {
	*memDisk
	size atomic.Int64
}

func (d *growingDisk) Size() (int64, error) { return d.size.Load(), nil }
