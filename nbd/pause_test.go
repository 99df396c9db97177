package nbd

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPauseIsNoSilence: while this process is stopped no client can do its part. The first look
// afterwards finds it without credit, and closes it only if it does nothing from then on.
func TestPauseIsNoSilence(t *testing.T) {
	const bytes = 32 << 20
	for _, tt := range []struct {
		name   string
		moves  int // after the pause, in each tick
		closed bool
	}{
		{"it goes on", bytes / 32, false}, // twice the pace that is asked for
		{"it is silent", 0, true},
		{"it trickles", bytes / 320, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pace
				p.begin(2, bytes)
				time.Sleep(time.Minute) // of the bubble's clock; nobody looks, nothing moves
				if p.overdue(2) {
					t.Fatal("it is closed at the first look after the pause")
				}
				closed := false
				for range 60 {
					time.Sleep(starvedTick / 2)
					p.moved(tt.moves)
					time.Sleep(starvedTick / 2)
					closed = closed || p.overdue(2)
				}
				if closed != tt.closed {
					t.Errorf("closed: %t, want %t", closed, tt.closed)
				}
			})
		})
	}
}
