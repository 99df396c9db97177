package journal

import (
	"fmt"

	"jnbd/jsuper"
)

// route is the way on which a write reaches its place.
type route uint8

const (
	// viaLog: the bytes go into the log, and home later, by a checkpoint.
	viaLog route = iota
	// writeOnce: whole blocks go to their homes or to spare at once, and only a MAP record
	// into the log. Where there is no room for that, the log takes them after all.
	writeOnce
)

// bulkBytes is from which size on a write of mode auto goes out once. Below it a second
// device write, with its own place to flush, costs more than writing the bytes twice.
const bulkBytes = 64<<10 + 1

// routes decides, for every change of a disk. It is the one place where modes differ:
// DESIGN.md, section 5, is its table.
//
// data and auto log small writes. ordered logs only what has no whole block.
type routes struct{ mode jsuper.Mode }

func newRoutes(mode jsuper.Mode) (routes, error) {
	switch mode {
	case jsuper.Data, jsuper.Ordered, jsuper.Auto:
		return routes{mode: mode}, nil
	}
	return routes{}, fmt.Errorf("mode %s: %w", mode, ErrModeUnsupported)
}

// write is the route of a write of n bytes.
func (r routes) write(n int64) route {
	switch {
	case r.mode == jsuper.Ordered && n >= blockBytes:
		return writeOnce
	case r.mode == jsuper.Auto && n >= bulkBytes:
		return writeOnce
	}
	return viaLog
}
