package disk_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"jnbd/disk"
	"jnbd/disk/crashdisk"
)

// TestFailStopFlushes: two users of one device flush it through regions of their own; the
// failure that one is told must reach the other.
func TestFailStopFlushes(t *testing.T) {
	for name, wrap := range map[string]func(disk.Device) disk.Device{
		"bare":     func(d disk.Device) disk.Device { return d },
		"failstop": disk.FailStop,
	} {
		g := crashdisk.NewGroup(1)
		dev := wrap(g.Disk("d", 1<<20))
		a, b := disk.Region(dev, 0, 1<<19), disk.Region(dev, 1<<19, 1<<19)
		if _, err := b.WriteAt([]byte("precious"), 0); err != nil {
			t.Fatal(err)
		}
		g.FailAt(2, syscall.EIO)
		if err := a.Flush(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("%s: first flush: %v", name, err)
		}
		err := b.Flush()
		if lies := err == nil; lies != (name == "bare") {
			t.Errorf("%s: the second flush answers %v", name, err)
		}
		if name == "failstop" && (!errors.Is(err, syscall.EIO) || !errors.Is(err, disk.ErrFlushFailed)) {
			t.Errorf("the second flush doesn't tell the cause: %v", err)
		}
	}
}

// TestStop: when Stop returns, no flush is under way and none will be; the device below can be
// flushed all the same.
func TestStop(t *testing.T) {
	for range 100 {
		g := crashdisk.NewGroup(1)
		var ended atomic.Bool
		dev := disk.FailStop(flushEnd{g.Disk("d", 4096), func() { ended.Store(true) }})
		stopped := make(chan bool, 1)
		var below disk.Device
		g.OnOp(func(int, string) { // a flush is under way
			go func() {
				below = disk.Stop(dev, syscall.EIO)
				stopped <- ended.Load()
			}()
			runtime.Gosched()
		})
		if err := dev.Flush(); err != nil {
			t.Fatalf("the flush that was under way: %v", err)
		}
		if !<-stopped {
			t.Fatal("stopped beside a flush")
		}
		g.OnOp(nil)
		if err := dev.Flush(); !errors.Is(err, syscall.EIO) || g.Ops() != 1 {
			t.Fatalf("a later flush: %v, after %d operations", err, g.Ops())
		}
		if err := below.Flush(); err != nil || g.Ops() != 2 {
			t.Fatalf("the device below: %v, after %d operations", err, g.Ops())
		}
	}
}

// TestFlushFailed tells of a flush that has failed, also of one that Stop did not let be.
func TestFlushFailed(t *testing.T) {
	g := crashdisk.NewGroup(1)
	bare := g.Disk("d", 4096)
	dev := disk.FailStop(bare)
	if err := errors.Join(dev.Flush(), disk.FlushFailed(dev), disk.FlushFailed(bare)); err != nil {
		t.Errorf("nothing has failed: %v", err)
	}
	if disk.Stop(bare, syscall.EIO) != disk.Device(bare) {
		t.Error("a device without FailStop is not itself")
	}
	disk.Stop(dev, syscall.EIO)
	disk.Stop(dev, syscall.ENOSPC)
	if err := disk.FlushFailed(dev); !errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC) {
		t.Errorf("stopped for EIO, and then: %v", err)
	}
}

// TestFailStopOneAtATime: no flush begins while another is under way.
func TestFailStopOneAtATime(t *testing.T) {
	g := crashdisk.NewGroup(1)
	var mu sync.Mutex
	running, most := 0, 0
	g.OnOp(func(int, string) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
	})
	inner := g.Disk("d", 4096)
	dev := disk.FailStop(flushEnd{inner, func() {
		mu.Lock()
		running--
		mu.Unlock()
	}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if err := dev.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d flushes ran side by side", most)
	}
}

// flushEnd tells when a flush has returned.
type flushEnd struct {
	disk.Device
	ended func()
}

func (f flushEnd) Flush() error {
	defer f.ended()
	return f.Device.Flush()
}
