package main

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"jnbd/nbd"
)

// eventLog logs what an NBD server tells.
type eventLog struct {
	log  zerolog.Logger
	slow limiter
}

// levelOf is how much an event matters. Clients that come and go, health probes among them,
// are worth a line only in detail; what went wrong always is.
func levelOf(e *nbd.Event) zerolog.Level {
	switch e.Kind {
	case nbd.ConnAttached:
		return zerolog.InfoLevel
	case nbd.ConnClosed:
		if e.Export != "" || e.Err != nil {
			return zerolog.InfoLevel
		}
	case nbd.ConnRefused, nbd.AcceptFailed, nbd.RequestSlow:
		return zerolog.WarnLevel
	case nbd.RequestFailed:
		return zerolog.ErrorLevel
	case nbd.RequestTraced:
		return zerolog.TraceLevel
	}
	return zerolog.DebugLevel
}

// add logs an event. Many may come at the same time.
func (l *eventLog) add(e nbd.Event) {
	level := levelOf(&e)
	if l.log.GetLevel() > level {
		return
	}
	kept := 0
	if e.Kind == nbd.RequestSlow {
		var ok bool
		if kept, ok = l.slow.allow(time.Now()); !ok {
			return
		}
	}
	line := l.log.WithLevel(level)
	if e.Conn != 0 {
		line.Uint64("conn", e.Conn)
	}
	if e.Remote == "@" { // a unix socket's client has no name
		e.Remote = ""
	}
	for _, field := range []struct{ name, value string }{{"remote", e.Remote}, {"export", e.Export}, {"client", e.Client}, {"reason", e.Reason}} {
		if field.value != "" {
			line.Str(field.name, field.value)
		}
	}
	switch e.Kind {
	case nbd.ConnClosed:
		line.Uint64("requests", e.Requests).Uint64("failed", e.Failed).
			Uint64("read_bytes", e.BytesRead).Uint64("written_bytes", e.BytesWritten)
	case nbd.RequestSlow, nbd.RequestTraced:
		line.Stringer("command", e.Command).Uint64("offset_bytes", e.Offset).Uint64("length_bytes", e.Length).
			Bool("fua", e.FUA).Dur("took_ms", e.Took)
	}
	if kept > 0 {
		line.Int("not_logged", kept)
	}
	line.Err(e.Err).Msg(e.Kind.String())
}

const (
	// slowLines is how many slow requests are logged in each slowEvery: when a medium hangs,
	// all are slow, and the first few say it.
	slowLines = 10
	slowEvery = time.Second
)

// limiter lets slowLines pass in each slowEvery. The zero value is ready.
type limiter struct {
	mu      sync.Mutex
	since   time.Time
	passed  int
	stopped int // since the last one that passed
}

// allow reports whether one may pass now, and how many were stopped since the last that did.
func (l *limiter) allow(now time.Time) (stopped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= slowEvery {
		l.since, l.passed = now, 0
	}
	if l.passed == slowLines {
		l.stopped++
		return 0, false
	}
	l.passed++
	stopped, l.stopped = l.stopped, 0
	return stopped, true
}
