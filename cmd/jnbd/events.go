package main

import (
	"github.com/rs/zerolog"

	"jnbd/nbd"
)

// logEvent logs what the NBD server tells. Clients that come and go, health probes among
// them, are worth a line only in detail; what went wrong always is.
func (a *app) logEvent(e nbd.Event) {
	level := zerolog.DebugLevel
	switch e.Kind {
	case nbd.ConnAttached:
		level = zerolog.InfoLevel
	case nbd.ConnClosed:
		if e.Export != "" || e.Err != nil {
			level = zerolog.InfoLevel
		}
	case nbd.ConnRefused, nbd.AcceptFailed:
		level = zerolog.WarnLevel
	case nbd.RequestFailed:
		level = zerolog.ErrorLevel
	}
	line := a.log.WithLevel(level)
	if a.log.GetLevel() > level {
		return
	}
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
	if e.Kind == nbd.ConnClosed {
		line.Uint64("requests", e.Requests).Uint64("failed", e.Failed).
			Uint64("read_bytes", e.BytesRead).Uint64("written_bytes", e.BytesWritten)
	}
	line.Err(e.Err).Msg(e.Kind.String())
}
