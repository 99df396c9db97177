// Command jnbd makes, serves and looks after journaling block devices.
//
// The path of a command:
//
//  1. main hands over the arguments, and ends the process with run's code.
//  2. cobra finds the subcommand; each has a file of its own (create.go, serve.go, …).
//  3. store.go turns DISK into the devices it stands on.
//  4. The command returns an error or nil; only here is it printed, once.
//  5. exit.go turns the error into the exit code.
//
// Facts go to stdout (output.go), everything else to stderr (logging.go, progress.go).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// app is what every subcommand shares.
type app struct {
	stdout, stderr io.Writer
	logFormat      string // --log-format
	logLevel       string // --log-level
	log            zerolog.Logger
	// logErrors makes the final error a log line: set by serve, whose stderr is a log.
	logErrors bool
}

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, log: zerolog.Nop()}
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.Execute()
	code := exitCode(err)
	var child *childError
	switch {
	case err == nil || err == errInterrupted || errors.As(err, &child):
		// Nothing to add: the command has said its piece, or ended as the user wished.
	case a.logErrors:
		a.log.Error().Int("exit_code", code).Msg(err.Error())
	case code == exitUsage:
		fmt.Fprintf(stderr, "jnbd: %v\nTry 'jnbd --help' or 'jnbd COMMAND --help'.\n", err)
	default:
		fmt.Fprintf(stderr, "jnbd: %v\n", err)
	}
	return code
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "jnbd",
		Short: "A journaling block device, served over NBD",
		Long: `jnbd serves disk images and block devices over NBD, with a journal in front.
After any crash the disk is at one exact point of the write order, never torn, and
never short of what was flushed.

DISK is an image file or a block device. Its journal lies beside it as DISK.jnbd, or
in the tail of the backing itself (--journal internal, the default on block devices).
Sizes take K, M, G or T, powers of 1024.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), usagef("no command given"))
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := applyEnvironment(cmd.Root().PersistentFlags()); err != nil {
				return err
			}
			return a.startLog()
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "auto", "how to log: auto (console on a terminal, else json), json or console")
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "info", "least level to log: trace, debug, info, warn or error")
	root.AddCommand(
		a.createCommand(),
		a.serveCommand(),
		a.infoCommand(),
		a.checkCommand(),
		a.logCommand(),
		a.topCommand(),
		a.closeCommand(),
		a.resizeCommand(),
		a.tlsCommand(),
		a.attachCommand(),
		a.detachCommand(),
		a.versionCommand(),
		a.manCommand(),
	)
	return root
}

// exactArgs is cobra.ExactArgs with our exit code and words.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s: %s is missing", cmd.Name(), names[len(args)])
		case len(args) > len(names):
			return usagef("%s: %q is too much: it takes only %d argument(s)", cmd.Name(), args[len(names)], len(names))
		}
		return nil
	}
}
