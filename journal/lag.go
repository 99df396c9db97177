package journal

import (
	"sync"
	"time"
)

// lag remembers when what is in the log was changed, to about a second: so that an operator
// sees how long the oldest change has waited for a checkpoint. The zero value is empty.
type lag struct {
	mu    sync.Mutex
	spans []lagSpan     // oldest first; at most lagSpans
	step  time.Duration // that one of them spans
}

// lagSpan is a piece of the log: changes made one after the other.
type lagSpan struct {
	began time.Time // when the first was made
	last  int64     // log position of the last
}

const (
	// lagStep is what one span spans of time, as long as there are few.
	lagStep = time.Second
	// lagSpans bounds their number. With more, each two become one of twice the length.
	lagSpans = 128
)

// changed notes a change at a log position, which is behind all that were noted before.
func (l *lag) changed(pos int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.spans)
	if n == 0 {
		l.step = lagStep
	} else if now.Sub(l.spans[n-1].began) < l.step {
		l.spans[n-1].last = pos
		return
	}
	if n == lagSpans {
		l.step *= 2
		for i := range lagSpans / 2 {
			l.spans[i] = lagSpan{l.spans[2*i].began, l.spans[2*i+1].last}
		}
		l.spans = l.spans[:lagSpans/2]
	}
	l.spans = append(l.spans, lagSpan{now, pos})
}

// oldest is when the oldest change from tail on was made; zero if there is none. What lies
// before the tail is forgotten.
func (l *lag) oldest(tail int64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := 0
	for gone < len(l.spans) && l.spans[gone].last < tail {
		gone++
	}
	l.spans = append(l.spans[:0], l.spans[gone:]...)
	if len(l.spans) == 0 {
		return time.Time{}
	}
	return l.spans[0].began
}
