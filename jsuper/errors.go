package jsuper

import "errors"

// The refusals. Each comes wrapped with the slots' offsets and what was found there.
var (
	// ErrNoJournal: neither slot holds anything of ours. Both are zero, or belong to
	// something else.
	ErrNoJournal = errors.New("no jnbd journal here")
	// ErrCorrupt: a superblock was here, and no slot can be believed.
	ErrCorrupt = errors.New("journal superblock is corrupt")
	// ErrTooNew: the newest slot is whole, and of a format this version does not know.
	ErrTooNew = errors.New("journal format is too new: use a newer jnbd")
	// ErrReadOnlyFormat: the journal uses a feature that this version can read around but
	// must not write. Only Store refuses it; Probe does not.
	ErrReadOnlyFormat = errors.New("journal can only be read by this version: serve it read-only, or use a newer jnbd")
	// ErrChanged: the backing is not as its fingerprint says; others wrote to it. Or it is
	// longer than when the journal in its end was made.
	ErrChanged = errors.New("backing changed behind the journal")
	// ErrShrunk: the backing is shorter than it was.
	ErrShrunk = errors.New("backing is shorter than the journal knows it")
)
