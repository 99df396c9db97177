package ordered

import "errors"

// The refusals of Load and FinishReplay. Each comes wrapped with the place and what was
// found there.
var (
	// ErrCorrupt: the stored state, or the records replayed on it, contradict themselves.
	// Nothing was changed on the device.
	ErrCorrupt = errors.New("write-once state is corrupt; run jnbd check")
	// ErrTooNew: a page is whole, and of a format this version does not know.
	ErrTooNew = errors.New("write-once state is of a newer format: use a newer jnbd")
)
