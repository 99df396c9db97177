package journal

import (
	"testing"
	"time"
)

// However many changes there are, the age of the oldest that is not home is right to a
// second or, when changes of many minutes wait, to a 32nd of that; memory is bounded.
func TestLag(t *testing.T) {
	var l lag
	if !l.oldest(0).IsZero() {
		t.Error("an empty log has an oldest change")
	}
	start := time.Unix(1_000_000, 0)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * 100 * time.Millisecond) }
	const changes = 20_000 // half an hour, ten a second
	for i := range changes {
		l.changed(int64(i), at(i))
		if len(l.spans) > lagSpans {
			t.Fatalf("%d spans", len(l.spans))
		}
	}
	coarse := at(changes).Sub(start) / 32
	for tail := range changes {
		got, want := l.oldest(int64(tail)), at(tail)
		if got.After(want) || want.Sub(got) > coarse {
			t.Fatalf("oldest from %d on: %s, want %s or up to %s earlier", tail, got, want, coarse)
		}
	}
	if !l.oldest(changes).IsZero() {
		t.Error("all is home, and there is an oldest change")
	}

	// An hour of silence counts for nothing.
	l.changed(changes, at(0).Add(time.Hour))
	l.changed(changes+1, at(0).Add(2*time.Hour))
	if got := l.oldest(changes + 1); !got.Equal(at(0).Add(2 * time.Hour)) {
		t.Errorf("the oldest change is %s, want the only one", got)
	}
}
