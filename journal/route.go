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
)

// routes decides, for every change of a disk. It is the one place where modes differ:
// DESIGN.md, section 5, is its table. ordered and auto add their rows here.
type routes struct{ mode jsuper.Mode }

func newRoutes(mode jsuper.Mode) (routes, error) {
	if mode != jsuper.Data {
		return routes{}, fmt.Errorf("mode %s: this version serves mode data only; create the disk with --mode data: %w", mode, ErrModeUnsupported)
	}
	return routes{mode: mode}, nil
}

// write is the route of n bytes written at off.
func (routes) write(_, _ int64) route { return viaLog }
