package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// writePidFile puts the process id into path in one step: a reader sees all of it or
// nothing.
func writePidFile(path string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(fmt.Errorf("write pid file: %w", err), os.Remove(temporary))
	}
	return nil
}
