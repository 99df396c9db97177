package journal

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestGateWaitsForThoseInside: wait returns after the readers that were inside, and does not
// wait for later ones.
func TestGateWaitsForThoseInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		early := g.enter()
		var returned atomic.Bool
		go func() {
			g.wait()
			returned.Store(true)
		}()
		synctest.Wait()
		if returned.Load() {
			t.Fatal("wait returned with a reader inside")
		}
		late := g.enter()
		g.leave(early)
		synctest.Wait()
		if !returned.Load() {
			t.Fatal("wait did not return after the early reader left")
		}
		g.leave(late)
		g.wait()
	})
}

// TestGateUnderLoad: what a reader found may not be reused while it is inside.
func TestGateUnderLoad(t *testing.T) {
	g := newGate()
	var current atomic.Pointer[atomic.Bool] // what readers find; true once it is reused
	current.Store(new(atomic.Bool))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var bad atomic.Int64
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				gen := g.enter()
				found := current.Load()
				if found.Load() {
					bad.Add(1)
				}
				g.leave(gen)
			}
		})
	}
	for range 5000 {
		old := current.Swap(new(atomic.Bool))
		g.wait()
		old.Store(true)
	}
	close(stop)
	readers.Wait()
	if n := bad.Load(); n != 0 {
		t.Fatalf("%d reads of something that was reused already", n)
	}
}
