package nbd

import "fmt"

// A request meets these questions in this order; the first "no" is its answer:
//
//  1. Is it a command that we have, with flags that were offered for it? EINVAL.
//  2. May this export be changed? EPERM.
//  3. Is the payload within the maximum, and does a FLUSH claim no range? EINVAL.
//  4. Is it aligned to the minimum block? EINVAL.
//  5. Does the range end within the disk? ENOSPC for changes that add data, else EINVAL.
//
// A request of no length that passes succeeds and does nothing.

// refusal is why a request is not performed. The zero value means that it is.
type refusal struct {
	errno Errno
	text  string // for structured error chunks
}

// flagsFor is the set of command flags that each command may carry. FUA is fine on all of
// them (proto.md, "Command flags").
func flagsFor(cmd uint16, s style) (flags uint16, known bool) {
	payload := uint16(0)
	if s == extended {
		payload = cfPayload
	}
	switch cmd {
	case cmdRead:
		if s.chunked() {
			return cfFUA | cfDF, true
		}
		return cfFUA, true
	case cmdWrite:
		return cfFUA | payload, true
	case cmdFlush, cmdTrim, cmdCache:
		return cfFUA, true
	case cmdWriteZeroes:
		return cfFUA | cfNoHole | cfFastZero, true
	case cmdBlockStatus:
		return cfFUA | cfReqOne | payload, true
	}
	return 0, false
}

// changes reports whether cmd changes the disk.
func changes(cmd uint16) bool {
	return cmd == cmdWrite || cmd == cmdTrim || cmd == cmdWriteZeroes
}

// check asks the questions above. DISC is not asked: it has no reply.
func (c *conn) check(r *request) (no refusal) {
	allowed, known := flagsFor(r.cmd, c.style)
	switch {
	case !known:
		return refusal{EINVAL, fmt.Sprintf("unknown command %d", r.cmd)}
	case r.flags&^allowed != 0:
		return refusal{EINVAL, fmt.Sprintf("command %d does not take flags %#x", r.cmd, r.flags&^allowed)}
	case r.cmd == cmdFlush:
		if r.length != 0 || r.offset != 0 {
			return refusal{EINVAL, "a flush covers the whole disk and takes no range"}
		}
		return refusal{}
	case r.cmd == cmdBlockStatus && (c.contexts == 0 || r.length == 0):
		return refusal{EINVAL, "block status needs a negotiated meta context and a length"}
	}

	x := c.export
	if r.cmd == cmdWrite && r.payload != r.length {
		return refusal{EINVAL, "a write with extended headers needs the flag that says how long its payload is"}
	}
	if r.cmd == cmdBlockStatus && r.payload > 0 {
		return refusal{} // its range is in the payload, and checked when that was read
	}
	if changes(r.cmd) && x.ReadOnly {
		return refusal{EPERM, "the export is read-only"}
	}
	if (r.cmd == cmdRead || r.cmd == cmdWrite) && r.length > uint64(x.MaxBlock) {
		return refusal{EINVAL, fmt.Sprintf("%d bytes in one request, at most %d are allowed", r.length, x.MaxBlock)}
	}
	if mask := uint64(x.MinBlock) - 1; (r.offset|r.length)&mask != 0 {
		return refusal{EINVAL, fmt.Sprintf("not aligned to the minimum block of %d bytes", x.MinBlock)}
	}
	if !c.reaches(r) && !c.hasGrown(r) {
		errno := EINVAL
		if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
			errno = ENOSPC
		}
		return refusal{errno, fmt.Sprintf("offset %d length %d is beyond the end of the disk at %d", r.offset, r.length, c.size)}
	}
	return refusal{}
}

// reaches reports whether the disk reaches to the end of r. Neither side of the comparison
// can overflow: size is an int64, never negative.
func (c *conn) reaches(r *request) bool {
	size := uint64(c.size)
	return r.offset <= size && r.length <= size-r.offset
}

// hasGrown is reaches after a look at the disk's size of now. A disk may grow while it is
// served; the protocol has no word for it, but clients have other ways to learn of it.
func (c *conn) hasGrown(r *request) bool {
	size, err := c.export.sizeNow()
	if err != nil || size <= c.size {
		return false
	}
	c.size = size
	return c.reaches(r)
}
