package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"
)

// startLog makes the logger that --log-format and --log-level ask for.
func (a *app) startLog() error {
	level, err := zerolog.ParseLevel(a.logLevel)
	if err != nil || a.logLevel == "" {
		return usagef("--log-level %q: want trace, debug, info, warn or error", a.logLevel)
	}
	w := a.stderr
	switch a.logFormat {
	case "json":
	case "console":
		w = consoleWriter(a.stderr)
	case "auto":
		if isTerminal(a.stderr) {
			w = consoleWriter(a.stderr)
		}
	default:
		return usagef("--log-format %q: want auto, json or console", a.logFormat)
	}
	// Sync: connections, the poison callback and the main path log at the same time.
	a.log = zerolog.New(zerolog.SyncWriter(w)).Level(level).With().Timestamp().Logger()
	return nil
}

func consoleWriter(w io.Writer) io.Writer {
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
}

// isTerminal reports whether a person may be watching w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
