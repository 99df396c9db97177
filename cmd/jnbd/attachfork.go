package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// forkAttach runs the same attach in the background, in a session of its own, and returns
// when the device can be used, or with its failure. Its log goes where ours would.
func (a *app) forkAttach(cmd *cobra.Command, args []string) error {
	again := []string{cmd.Name()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "fork" {
			again = append(again, "--"+f.Name+"="+f.Value.String())
		}
	})
	child := exec.Command("/proc/self/exe", append(append(again, "--"), args...)...)
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("--fork: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		_, err = io.WriteString(a.stdout, line)
		return err
	}
	err = child.Wait()
	if err == nil {
		return errors.New("--fork: the process in the background ended before the device could be used")
	}
	return &childError{exitOf(err)} // it has said why
}
