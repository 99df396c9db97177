package disk

import (
	"fmt"
	"slices"
	"sync"
)

// memPageSize is the unit in which Mem takes memory, in bytes.
const memPageSize = 64 << 10

type memPage [memPageSize]byte

// zeroPage stands for a page that is allocated and was zeroed. It is never written.
var zeroPage memPage

// Mem is a device in memory, for tests and throw-away disks. Pages that were never written
// take no memory, so that a disk of 1 TiB is cheap. It survives nothing, and Flush has
// nothing to do. The zero value is a device of no bytes.
type Mem struct {
	size int64

	mu    sync.RWMutex
	pages map[int64]*memPage // guarded by mu; by page index; absent: hole
}

var (
	_ Zeroer       = (*Mem)(nil)
	_ CachedReader = (*Mem)(nil)
	_ Extenter     = (*Mem)(nil)
)

// NewMem returns a device of size bytes, all of them zero.
func NewMem(size int64) *Mem {
	if size < 0 {
		panic(fmt.Sprintf("disk: memory device of %d bytes", size))
	}
	return &Mem{size: size, pages: map[int64]*memPage{}}
}

// Size is the length in bytes.
func (m *Mem) Size() int64 { return m.size }

// Flush does nothing.
func (m *Mem) Flush() error { return nil }

// ReadAt fills p from off.
func (m *Mem) ReadAt(p []byte, off int64) (int, error) {
	if err := CheckRange(off, int64(len(p)), m.size); err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/memPageSize, (off+int64(done))%memPageSize
		part := p[done:min(len(p), done+int(memPageSize-at))]
		if page := m.pages[i]; page != nil {
			copy(part, page[at:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p), nil
}

// ReadCachedAt is ReadAt: all of it is in memory.
func (m *Mem) ReadCachedAt(p []byte, off int64) error {
	_, err := m.ReadAt(p, off)
	return err
}

// WriteAt writes p at off.
func (m *Mem) WriteAt(p []byte, off int64) (int, error) {
	if err := CheckRange(off, int64(len(p)), m.size); err != nil {
		return 0, fmt.Errorf("write memory: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/memPageSize, (off+int64(done))%memPageSize
		done += copy(m.ownPageLocked(i)[at:], p[done:])
	}
	return len(p), nil
}

// ownPageLocked is page i, allocated and private.
func (m *Mem) ownPageLocked(i int64) *memPage {
	page := m.pages[i]
	if page == nil || page == &zeroPage {
		page = new(memPage)
		m.pages[i] = page
	}
	return page
}

// Zero makes [off, off+n) read as zeros. With punch, whole pages become holes. Without,
// holes become allocated, which here only shows in Extents and costs a map entry a page.
func (m *Mem) Zero(off, n int64, punch bool) error {
	if err := CheckRange(off, n, m.size); err != nil {
		return fmt.Errorf("zero memory: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := off + n
	if first := min(end, roundUp(off, memPageSize)); first > off {
		m.zeroPartLocked(off, first, punch)
		off = first
	}
	if last := end / memPageSize * memPageSize; last >= off && last < end {
		if end == m.size {
			last = roundUp(end, memPageSize) // the device's last page is whole, however short
		} else {
			m.zeroPartLocked(last, end, punch)
		}
		end = last
	}
	if off >= end {
		return nil
	}
	if punch {
		for _, i := range m.indexesLocked(off, end-off) {
			delete(m.pages, i)
		}
		return nil
	}
	for i := off / memPageSize; i < end/memPageSize; i++ {
		m.pages[i] = &zeroPage
	}
	return nil
}

// zeroPartLocked zeros [from, to), which lies in one page.
func (m *Mem) zeroPartLocked(from, to int64, punch bool) {
	i := from / memPageSize
	switch m.pages[i] {
	case nil:
		if !punch {
			m.pages[i] = &zeroPage
		}
	case &zeroPage:
	default:
		clear(m.pages[i][from%memPageSize : from%memPageSize+(to-from)])
	}
}

// indexesLocked are the allocated pages that [off, off+n) touches, in order.
func (m *Mem) indexesLocked(off, n int64) []int64 {
	if n == 0 {
		return nil
	}
	first, last := off/memPageSize, (off+n-1)/memPageSize
	var indexes []int64
	if last-first < int64(len(m.pages)) {
		for i := first; i <= last; i++ {
			if m.pages[i] != nil {
				indexes = append(indexes, i)
			}
		}
		return indexes
	}
	for i := range m.pages {
		if first <= i && i <= last {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	return indexes
}

// Extents visits holes and data in units of 64 KiB pages, as they were when it was called.
func (m *Mem) Extents(off, n int64, visit func(off, n int64, hole bool) bool) error {
	if err := CheckRange(off, n, m.size); err != nil {
		return fmt.Errorf("extents of memory: %w", err)
	}
	m.mu.RLock()
	indexes := m.indexesLocked(off, n)
	m.mu.RUnlock()
	at, end := off, off+n
	for k := 0; k < len(indexes); {
		from := max(at, indexes[k]*memPageSize)
		if from > at && !visit(at, from-at, true) {
			return nil
		}
		run := k + 1
		for run < len(indexes) && indexes[run] == indexes[run-1]+1 {
			run++
		}
		at = min(end, (indexes[run-1]+1)*memPageSize)
		if !visit(from, at-from, false) {
			return nil
		}
		k = run
	}
	if at < end {
		visit(at, end-at, true)
	}
	return nil
}

// roundUp is the first multiple of unit that is not below n.
func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
