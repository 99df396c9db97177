package nbd

import "sync"

const (
	// maxHandedOff bounds the requests of one connection that are with workers or whose
	// large reply is not sent. Less than the default number of workers, so that one
	// connection can't hold them all.
	maxHandedOff = 32
	// maxFlushing bounds the requests of one connection that wait for a flush.
	maxFlushing = 1024
	// connShare is the part of a pool that one connection may hold while few others do.
	connShare = 4
)

// flight counts what a connection has in flight beyond its reader: requests with workers,
// replies of large reads until they are sent, and requests that wait for a flush.
type flight struct {
	onIdle func() // called without the lock when the last one lands

	mu       sync.Mutex
	landed   sync.Cond // something landed
	handed   int
	flushing int
	held     [poolCount]int64 // bytes held of each pool
}

// tryHandOff counts a request that needs a buffer of n bytes, if it fits; with wait it
// waits until it fits, which it does at the latest when nothing else is in flight. A
// connection that holds part of the pool gets the buffer with the count, and only while
// the pool can spare it. One that holds nothing gets nil, and asks the pool, where it may
// have to wait in line.
func (f *flight) tryHandOff(b *buffers, n int, wait bool) (buf *buffer, ok bool) {
	i, bytes := b.indexFor(n), classBytes(classOf(n))
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.handed < maxHandedOff {
			if f.held[i] == 0 {
				break
			}
			if f.held[i]+bytes <= b[i].limit/connShare {
				if buf = b[i].takeBeside(n, f.held[i]+bytes); buf != nil {
					break
				}
			}
		}
		if !wait {
			return nil, false
		}
		f.landed.Wait()
	}
	f.handed++
	f.held[i] += bytes
	return buf, true
}

// handBack undoes tryHandOff.
func (f *flight) handBack(b *buffers, n int) {
	f.mu.Lock()
	f.handed--
	f.held[b.indexFor(n)] -= classBytes(classOf(n))
	f.landLocked()
}

// awaitFlush counts a request that waits for a flush. It waits while there are too many.
func (f *flight) awaitFlush() {
	f.mu.Lock()
	for f.flushing >= maxFlushing {
		f.landed.Wait()
	}
	f.flushing++
	f.mu.Unlock()
}

// alsoAwaitFlush is awaitFlush for a request that is counted as handed off and so needs
// no bound of its own. It does not wait.
func (f *flight) alsoAwaitFlush() {
	f.mu.Lock()
	f.flushing++
	f.mu.Unlock()
}

// flushed undoes awaitFlush.
func (f *flight) flushed() {
	f.mu.Lock()
	f.flushing--
	f.landLocked()
}

// landLocked tells those who wait, and unlocks.
func (f *flight) landLocked() {
	idle := f.handed == 0 && f.flushing == 0
	f.landed.Broadcast()
	f.mu.Unlock()
	if idle {
		f.onIdle()
	}
}

// isIdle reports whether no more than own requests are in flight.
func (f *flight) isIdle(own int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handed+f.flushing <= own
}

// drain waits until nothing is in flight.
func (f *flight) drain() {
	f.mu.Lock()
	for f.handed > 0 || f.flushing > 0 {
		f.landed.Wait()
	}
	f.mu.Unlock()
}

// holds reports whether buffers of a pool are held.
func (f *flight) holds(pool int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[pool] > 0
}
