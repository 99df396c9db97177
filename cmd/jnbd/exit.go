package main

import (
	"context"
	"errors"
	"fmt"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/wal"
)

// The exit codes, as scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1   // anything that has no code of its own
	exitDamage      = 3   // check found damage
	exitNoJournal   = 10  // the disk has no journal
	exitLocked      = 11  // another process has the disk open
	exitCorrupt     = 12  // superblock or log is damaged where it must not be
	exitChanged     = 14  // the backing is not as its journal left it
	exitTooNew      = 15  // a newer jnbd wrote this
	exitUsage       = 64  // the command line is wrong
	exitInterrupted = 130 // SIGINT
)

// exitMeanings are the codes as the manual explains them.
var exitMeanings = []struct {
	code    int
	meaning string
}{
	{exitOK, "all is well"},
	{exitFailed, "it failed, and the message says why"},
	{exitDamage, "check found damage"},
	{exitNoJournal, "the disk has no journal"},
	{exitLocked, "another process has the disk in use"},
	{exitCorrupt, "superblock or log is corrupt"},
	{exitChanged, "the backing was changed behind the journal, or is another one"},
	{exitTooNew, "the format is of a newer jnbd"},
	{exitUsage, "the command line is wrong"},
	{exitInterrupted, "interrupted"},
}

// exitTable says which cause leads to which code. The first that matches wins, so that
// the more telling causes come first.
var exitTable = []struct {
	cause error
	code  int
}{
	{errInterrupted, exitInterrupted},
	{context.Canceled, exitInterrupted},
	{errDamage, exitDamage},
	{jsuper.ErrTooNew, exitTooNew},
	{jsuper.ErrReadOnlyFormat, exitTooNew},
	{wal.ErrTooNew, exitTooNew},
	{jsuper.ErrNoJournal, exitNoJournal},
	{disk.ErrLocked, exitLocked},
	{journal.ErrBackingChanged, exitChanged},
	{journal.ErrForeign, exitChanged},
	{jsuper.ErrChanged, exitChanged},
	{jsuper.ErrShrunk, exitChanged},
	{jsuper.ErrCorrupt, exitCorrupt},
	{wal.ErrCorrupt, exitCorrupt},
}

var (
	// errInterrupted: the user stopped the command (SIGINT) before its work was done.
	errInterrupted = errors.New("interrupted")
	// errDamage: check read everything and something is wrong.
	errDamage = errors.New("damage found")
)

// usageError is a command line that can't be followed.
type usageError struct{ cause error }

func (e *usageError) Error() string { return e.cause.Error() }
func (e *usageError) Unwrap() error { return e.cause }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// childError is the end of serve --run: the command's own exit code is passed on.
type childError struct{ code int }

func (e *childError) Error() string { return fmt.Sprintf("command of --run ended with %d", e.code) }

// exitCode is the code the process ends with when a command returned err.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	var child *childError
	if errors.As(err, &child) {
		return child.code
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	for _, row := range exitTable {
		if errors.Is(err, row.cause) {
			return row.code
		}
	}
	return exitFailed
}
