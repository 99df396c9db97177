package wal

import "errors"

// What callers branch on. Each comes wrapped, with the place and what was found there.
var (
	// ErrFull: the append doesn't fit now. Nothing was done. Free space, then ask again.
	ErrFull = errors.New("log is full")
	// ErrTooBig: the batch is larger than the log can ever hold, or a record's payload is
	// larger than MaxRecordPayload. Nothing was done.
	ErrTooBig = errors.New("too big for the log")
	// ErrCorrupt: bytes that were durable are damaged. The log must not be used; restore
	// it from a copy, or find out what the medium lost.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrTooNew: a frame was written by a newer version, which is needed to read the log.
	ErrTooNew = errors.New("log format is too new")
	// ErrFreed: the position is no longer in the log, or its space was given up while it
	// was being read. Look up again where the bytes are now.
	ErrFreed = errors.New("log position is freed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
)
