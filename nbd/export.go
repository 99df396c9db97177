package nbd

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// Export is a disk under a name.
type Export struct {
	// Name is what clients ask for: UTF-8, no NUL, at most 4,096 bytes. The server's first
	// export also answers to the empty name.
	Name string
	// Description is told to clients that ask; same limits as Name.
	Description string
	// Describe, when not nil, is asked for the description each time that a client asks. It
	// must not wait. What is not a valid description is not told.
	Describe func() string
	// Device is the disk.
	Device Device
	// AllowedNames, if there are any, are the clients that may use the export: at least one
	// must be a name of the client's certificate (the common name of its subject, or an
	// alternative DNS name, address or URI). Needs Server.TLS.
	AllowedNames []string
	// ReadOnly refuses every change with EPERM.
	ReadOnly bool
	// MinBlock, PreferredBlock and MaxBlock are told to clients, in bytes. MinBlock (at
	// most 64 KiB) and PreferredBlock (at least 512) are powers of two; MaxBlock, at most
	// 1 GiB, bounds the payload of one request. 0 means the defaults: 1, 4,096 and 32 MiB.
	MinBlock, PreferredBlock, MaxBlock uint32
}

// export is an Export at work.
type export struct {
	Export
	cached  CachedReader  // the Device's own, or nil
	count   counters      // of its connections that have ended
	changes atomic.Uint64 // changes admitted so far (alive.go)
	flushes flusher
	workers workers

	removed atomic.Bool // RemoveExport was called
	holders int         // connections and options that use it; guarded by Server.mu
}

// newExport checks x, fills in its defaults and gives it its workers.
func newExport(x Export, maxWorkers int) (*export, error) {
	if x.MinBlock == 0 {
		x.MinBlock = defaultMinBlock
	}
	if x.PreferredBlock == 0 {
		x.PreferredBlock = max(defaultPreferBlock, x.MinBlock)
	}
	if x.MaxBlock == 0 {
		x.MaxBlock = defaultMaxBlock
	}
	powerOfTwo := func(n uint32) bool { return bits.OnesCount32(n) == 1 }
	switch {
	case x.Device == nil:
		return nil, errors.New("it has no device")
	case validName(x.Name) != nil:
		return nil, fmt.Errorf("its name: %w", validName(x.Name))
	case validName(x.Description) != nil:
		return nil, fmt.Errorf("its description: %w", validName(x.Description))
	case !powerOfTwo(x.MinBlock) || x.MinBlock > 64<<10:
		return nil, fmt.Errorf("minimum block is %d, want a power of two up to 65536", x.MinBlock)
	case !powerOfTwo(x.PreferredBlock) || x.PreferredBlock < max(512, x.MinBlock):
		return nil, fmt.Errorf("preferred block is %d, want a power of two of at least 512 and the minimum block", x.PreferredBlock)
	case x.MaxBlock < x.PreferredBlock || x.MaxBlock%x.MinBlock != 0 || x.MaxBlock > maxMaxBlock:
		return nil, fmt.Errorf("maximum block is %d, want a multiple of the minimum block from %d to %d",
			x.MaxBlock, x.PreferredBlock, maxMaxBlock)
	}
	e := &export{Export: x}
	e.cached, _ = x.Device.(CachedReader)
	e.flushes.device = x.Device
	e.workers.init(maxWorkers)
	return e, nil
}

// sizeNow asks the device for its size.
func (x *export) sizeNow() (int64, error) {
	size, err := x.Device.Size()
	if err == nil && size < 0 {
		err = fmt.Errorf("device says its size is %d", size)
	}
	return size, err
}

// transmissionFlags is what the export offers to a client, by what it has agreed to: there is
// no DF without chunks, and no payload of BLOCK_STATUS without extended headers and contexts.
func (x *export) transmissionFlags(agreed *agreement) uint16 {
	flags := tfHasFlags | tfFlush | tfFUA | tfTrim | tfWriteZeroes | tfCanMultiConn | tfCache | tfFastZero
	if x.ReadOnly {
		flags |= tfReadOnly
	}
	if agreed.style.chunked() {
		flags |= tfDF
	}
	if agreed.style == extended && agreed.metaExport == x {
		flags |= tfStatusFilter
	}
	return flags
}

// description is what a client is told now, empty for nothing.
func (x *export) description() string {
	if x.Describe == nil {
		return x.Description
	}
	if text := x.Describe(); validName(text) == nil {
		return text
	}
	return ""
}

// validName says why s can't be a string of the protocol (proto.md, "Values").
func validName(s string) error {
	switch {
	case len(s) > maxNameBytes:
		return fmt.Errorf("%d bytes long, at most %d are allowed", len(s), maxNameBytes)
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("holds a NUL byte")
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	}
	return nil
}
