package main

import (
	"fmt"

	"jnbd/journal"
	"jnbd/jsuper"
)

// parseMode reads --mode and --spare. An empty mode is the default, data.
func parseMode(mode, spare string) (jsuper.Mode, error) {
	if mode == "" {
		mode = jsuper.Data.String()
	}
	parsed, err := jsuper.ParseMode(mode)
	switch {
	case err != nil:
		return 0, usagef("--mode: %w", err)
	case parsed != jsuper.Data:
		return 0, fmt.Errorf("--mode %s: %w: leave it away, or give --mode data", mode, journal.ErrModeUnsupported)
	case spare != "":
		return 0, usagef("--spare is for the modes ordered and auto: mode data needs no spare room")
	}
	return parsed, nil
}
