package main

import (
	"strconv"
	"strings"

	"jnbd/jsuper"
)

// defaultMode is create's unless --mode is given.
const defaultMode = jsuper.Auto

// parseMode reads --mode. An empty mode is the default.
func parseMode(mode string) (jsuper.Mode, error) {
	if mode == "" {
		return defaultMode, nil
	}
	parsed, err := jsuper.ParseMode(mode)
	if err != nil {
		return 0, usagef("--mode: %w", err)
	}
	return parsed, nil
}

// spareBytes reads --spare, a share of the disk like 10% or a size, for a disk of diskBytes.
// 0 is the mode's default.
func spareBytes(spare string, mode jsuper.Mode, diskBytes int64) (int64, error) {
	if spare == "" {
		return 0, nil
	}
	if mode == jsuper.Data {
		return 0, usagef("--spare is for the modes ordered and auto: mode data needs no spare room")
	}
	if share, ok := strings.CutSuffix(spare, "%"); ok {
		percent, err := strconv.ParseFloat(share, 64)
		if err != nil || !(percent > 0 && percent <= 100) {
			return 0, usagef("--spare %s: want more than 0%% and up to 100%%", spare)
		}
		return max(1, int64(float64(diskBytes)*percent/100)), nil
	}
	var size sizeFlag
	if err := size.Set(spare); err != nil {
		return 0, usagef("--spare %s: %w", spare, err)
	}
	if size.bytes == 0 {
		return 0, usagef("--spare 0: leave --mode %s away for --mode data, which needs none", mode)
	}
	return size.bytes, nil
}
