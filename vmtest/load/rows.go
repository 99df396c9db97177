package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"jnbd/vmtest/workload"
)

// rows has Debian's sqlite3 commit transactions, and marks each when it says that it has.
func (c *config) rows(m *marker) error {
	cmd := exec.Command("sqlite3", "-batch", "-bail", filepath.Join(c.dir, "rows.db"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = c.commit(m, stdin, bufio.NewScanner(stdout))
	return errors.Join(err, stdin.Close(), cmd.Wait())
}

// commit drives a sqlite3.
func (c *config) commit(m *marker, stdin io.Writer, stdout *bufio.Scanner) error {
	ask := func(sql string, number int) error {
		if _, err := fmt.Fprintf(stdin, "%s\nSELECT %d;\n", sql, number); err != nil {
			return err
		}
		for stdout.Scan() {
			if strings.TrimSpace(stdout.Text()) == strconv.Itoa(number) {
				return nil
			}
		}
		return fmt.Errorf("sqlite3 ended: %w", errors.Join(io.ErrUnexpectedEOF, stdout.Err()))
	}
	// Numbers below 0 are no transactions.
	if err := errors.Join(ask(workload.Schema, -1), ask(workload.Settings, -2)); err != nil {
		return err
	}
	if err := c.point(); err != nil {
		return err
	}
	if err := m.mark(workload.Mark{Kind: workload.Begin}); err != nil {
		return err
	}
	for n := 1; n <= c.count; n++ {
		if err := ask(workload.Transaction(n), n); err != nil {
			return fmt.Errorf("transaction %d: %w", n, err)
		}
		if err := m.mark(workload.Mark{Kind: workload.Done, Done: n}); err != nil {
			return err
		}
	}
	return nil
}
