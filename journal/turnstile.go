package journal

import "sync"

// turnstile lets those who write bulk to one medium go in groups (decision 29): who comes while a group
// is on its way waits for the last of it, and then goes together with all who wait. What a group has
// in the medium is written as fast as the medium can, and meanwhile the next group is received.
//
// A member leaves with its records in the log. So appends come between two groups, and not among writes
// to the same file, for which the kernel has them wait, and behind them all writes that come later.
//
// Who may be waited for by the checkpointer must not enter: a member's append may wait for the
// checkpointer. The zero value is ready.
type turnstile struct {
	mu      sync.Mutex
	inside  int
	waiting int
	next    chan struct{} // closed when those who wait go; nil while nobody does
}

// enter waits for the caller's turn. leave must follow.
func (t *turnstile) enter() {
	t.mu.Lock()
	if t.inside == 0 {
		t.inside = 1
		t.mu.Unlock()
		return
	}
	t.waiting++
	if t.next == nil {
		t.next = make(chan struct{})
	}
	turn := t.next
	t.mu.Unlock()
	<-turn
}

// leave lets those who wait go if the caller is the last of its group.
func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inside--
	if t.inside > 0 || t.waiting == 0 {
		return
	}
	t.inside, t.waiting = t.waiting, 0
	close(t.next)
	t.next = nil
}
