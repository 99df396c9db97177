package nbd

import (
	"errors"
	"fmt"
	"testing"
)

// foreignDrop is a drop as a Device tells it that does not know this package.
type foreignDrop bool

func (foreignDrop) Error() string   { return "change dropped" }
func (d foreignDrop) Dropped() bool { return bool(d) }

// A drop is known by its kind or by its method, anywhere in the chain.
func TestIsDropped(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"none", nil, false},
		{"another error", errors.New("disk failed"), false},
		{"ours", ErrDropped, true},
		{"ours, wrapped", fmt.Errorf("write: %w", ErrDropped), true},
		{"foreign", foreignDrop(true), true},
		{"foreign, wrapped", fmt.Errorf("write: %w", foreignDrop(true)), true},
		{"foreign that says no", foreignDrop(false), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isDropped(tt.err); got != tt.want {
				t.Errorf("isDropped: %v, want %v", got, tt.want)
			}
		})
	}
}

// A foreign drop is no failure: it is counted as dropped, no event tells of a failed
// request, and the connection ends.
func TestForeignDrop(t *testing.T) {
	for _, n := range []int{4096, 1 << 20} { // by the reader, by a worker
		t.Run(fmt.Sprintf("write of %d", n), func(t *testing.T) {
			d, log := newMemDisk(1<<20), newEventLog()
			d.dropped = fmt.Errorf("write: %w", foreignDrop(true))
			entered, release := stall(d)
			s := &Server{Exports: []Export{{Device: d}}, OnEvent: log.add}
			path := startServer(t, s)
			old, successor := attach(t, path), attach(t, path)
			old.send(cmdWrite, 0, 0, 0, make([]byte, n))
			<-entered
			_ = old.nc.Close()
			successor.must(cmdWrite, 0, 0, 0, []byte("new"))
			close(release)
			if e := log.await(t, closedOf(1)); e.Failed != 0 {
				t.Errorf("%d requests failed", e.Failed)
			}
			if st := s.Stats(); st.Dropped != 1 {
				t.Errorf("%d changes were dropped, want 1", st.Dropped)
			}
			log.mu.Lock()
			defer log.mu.Unlock()
			for _, e := range log.events {
				if e.Kind == RequestFailed {
					t.Errorf("an event tells of a failure: %v", e.Err)
				}
			}
		})
	}
}
