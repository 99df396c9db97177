package disk_test

import (
	"errors"
	"sync"
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
