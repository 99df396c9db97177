package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/wal"
)

func TestExitCode(t *testing.T) {
	wrap := func(err error) error {
		return errors.Join(fmt.Errorf("disk d: %w", err), errors.New("clean up"))
	}
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{wrap(journal.ErrModeUnsupported), 1},
		{wrap(disk.ErrNotDisk), 1},
		{wrap(fmt.Errorf("%w: %w", errDamage, wal.ErrCorrupt)), 3},
		{wrap(jsuper.ErrNoJournal), 10},
		{wrap(disk.ErrLocked), 11},
		{wrap(jsuper.ErrCorrupt), 12},
		{wrap(wal.ErrCorrupt), 12},
		{wrap(journal.ErrBackingChanged), 14},
		{wrap(journal.ErrForeign), 14},
		{wrap(jsuper.ErrChanged), 14},
		{wrap(jsuper.ErrShrunk), 14},
		{wrap(jsuper.ErrTooNew), 15},
		{wrap(jsuper.ErrReadOnlyFormat), 15},
		{wrap(wal.ErrTooNew), 15},
		{wrap(usagef("--size %q", "x")), 64},
		{wrap(errInterrupted), 130},
		{wrap(context.Canceled), 130},
		{wrap(&childError{7}), 7},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

// TestExitMeanings holds the manual's list against the codes in use.
func TestExitMeanings(t *testing.T) {
	explained := map[int]bool{}
	for _, e := range exitMeanings {
		if explained[e.code] || e.meaning == "" {
			t.Errorf("code %d: explained twice, or not at all", e.code)
		}
		explained[e.code] = true
	}
	for _, row := range exitTable {
		if !explained[row.code] {
			t.Errorf("code %d (%v) is not in the manual", row.code, row.cause)
		}
	}
}

func TestSplitExport(t *testing.T) {
	for _, test := range []struct{ arg, name, disk string }{
		{"disk.img", "disk.img", "disk.img"},
		{"/srv/disk.img", "disk.img", "/srv/disk.img"},
		{"vm=/srv/disk.img", "vm", "/srv/disk.img"},
		{"vm=a=b.img", "vm", "a=b.img"},
		{"./a=b.img", "a=b.img", "./a=b.img"},
		{"=x.img", "=x.img", "=x.img"},
	} {
		if name, disk := splitExport(test.arg); name != test.name || disk != test.disk {
			t.Errorf("splitExport(%q) = %q, %q, want %q, %q", test.arg, name, disk, test.name, test.disk)
		}
	}
}
