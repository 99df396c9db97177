package nbd

import (
	"errors"
	"slices"
	"syscall"
	"time"
)

// shortages are the errors of accept that pass: the client left again at once, or the host
// is short of files or memory for a while.
var shortages = []syscall.Errno{
	syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR,
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
}

// temporary reports whether accepting may succeed later after err.
func temporary(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(shortages, errno)
}

// acceptPause is the growing pause between attempts to accept while the host is short of
// something.
type acceptPause struct{ next time.Duration }

const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

func (p *acceptPause) reset() { p.next = 0 }

// wait waits and reports true, or reports false when stop is closed first.
func (p *acceptPause) wait(stop <-chan struct{}) bool {
	p.next = min(max(2*p.next, firstPause), maxPause)
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
