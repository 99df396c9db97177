// Package powercut is the main gate against lost data: it records every write and every
// flush that an unmodified jnbd sends to its disk, rebuilds what that disk may hold after a
// power cut at any of them, and holds each such state against what clients had been told.
//
// A run, in the order of the files:
//
//  1. Recorder is a disk in memory that notes every operation (recorder.go, recording.go).
//  2. Debian's nbdfuse shows it as a plain file (mount.go). The real jnbd makes that file
//     its disk, with the journal inside, and serves it (process.go). Where there is no FUSE,
//     and to let writes run beside flushes, the engine can stand on the recorder within this
//     process instead (inside.go).
//  3. A raw writer sends numbered requests over several connections (writer.go, client.go,
//     number.go), and notes when each was sent and answered (history.go).
//  4. Rounds end with kill -9 or SIGTERM; the server comes back on the same disk, and what
//     it then serves is checked as well (record.go).
//  5. The recording is played into disk/crashdisk up to a cut (replay.go). Images of the
//     cut are what a power loss may leave there: unflushed writes kept, lost, torn at 512 or
//     4096 bytes, reordered.
//  6. Each state is inspected, recovered, read, and finished to a raw image (verdict.go); a
//     sample also by the real binary (real.go). The judge decides whether what it reads as
//     is a prefix of an order that the clients could have seen, and long enough (judge.go).
//  7. Explore chooses cuts and images by seed and counts what was found (explore.go).
//
// One clock stamps operations of the disk and requests of the clients, so that "answered
// before the cut" is a comparison of two numbers.
//
// A state has a name, CUT:IMAGE, that means the same as long as the recording is kept:
// scripts/powercut -replay FILE -state CUT:IMAGE looks at one alone. See docs/crash-testing.md.
package powercut

import "errors"

// ErrUnavailable is wrapped by errors that say: this host lacks what a run needs. The
// machine is at fault, not jnbd.
var ErrUnavailable = errors.New("not available on this host")
