package main

import (
	"fmt"
	"time"
)

const (
	progressDrawEvery = 100 * time.Millisecond // on a terminal
	progressLogEvery  = 10 * time.Second       // elsewhere
)

// progress tells how far a long step is: a line drawn over and over on a terminal, a
// log line now and then elsewhere. It is used by one goroutine at a time.
type progress struct {
	app   *app
	what  string
	every time.Duration
	draws bool
	drawn bool
	last  time.Time
}

func (a *app) newProgress(what string) *progress {
	if isTerminal(a.stderr) {
		return &progress{app: a, what: what, every: progressDrawEvery, draws: true} // the first step at once
	}
	return &progress{app: a, what: what, every: progressLogEvery, last: time.Now()}
}

// step has the shape that the journal's long operations call back with.
func (p *progress) step(done, total int64) {
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	percent := int64(100)
	if total > 0 {
		percent = int64(float64(done) * 100 / float64(total))
	}
	if !p.draws {
		p.app.log.Info().Str("step", p.what).Int64("done_bytes", done).Int64("total_bytes", total).Msg("in progress")
		return
	}
	p.drawn = true
	fmt.Fprintf(p.app.stderr, "\r\x1b[K%s: %s of %s (%d%%)", p.what, humanSize(done), humanSize(total), percent)
}

// end takes the drawn line away, so that what follows starts on a clean one.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
}
