package main

import (
	"errors"
	"fmt"
)

// undoList takes back, in reverse order, what a failed command made.
type undoList []func() error

func (u *undoList) add(step func() error) { *u = append(*u, step) }

func (u *undoList) run() error {
	var failed error
	for i := len(*u) - 1; i >= 0; i-- {
		if err := (*u)[i](); err != nil {
			failed = errors.Join(failed, fmt.Errorf("clean up: %w", err))
		}
	}
	return failed
}
