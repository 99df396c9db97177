package wal

import (
	"crypto/rand"
	"encoding/hex"
)

// Epoch names one incarnation of a log. Every frame carries it and every checksum is
// seeded with it, so that frames of an earlier incarnation don't verify in a later one.
// The zero Epoch is the log that has never been started.
type Epoch [16]byte

// NewEpoch is a random Epoch, never the zero one.
func NewEpoch() Epoch {
	var e Epoch
	for e.IsZero() {
		_, _ = rand.Read(e[:]) // never fails: crypto/rand ends the process instead
	}
	return e
}

// IsZero says whether e is the zero Epoch.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// String is e in hexadecimal.
func (e Epoch) String() string { return hex.EncodeToString(e[:]) }
