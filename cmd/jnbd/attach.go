package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"jnbd/attach"
	"jnbd/kernel"
	"jnbd/nbd/nbdclient"
)

type attachOptions struct {
	connections int
	blockSize   sizeFlag
	timeout     time.Duration
	deadTimeout time.Duration
	wait        time.Duration
	pidFile     string
	fork        bool
	swap        bool
}

func (a *app) attachCommand() *cobra.Command {
	var options attachOptions
	cmd := &cobra.Command{
		Use:   "attach URI /dev/nbdN",
		Short: "Put an export under a device of the kernel, and keep it there",
		Long: `Attach connects the kernel's NBD client to an export, prints the device when it can be
used, and stays: when connections die it makes new ones, so that a server can be restarted,
upgraded or killed while the device is mounted and written to. Requests wait meanwhile, and
are sent again. What it never resumes on is another disk, or one that has lost writes which
it had acknowledged.

A server that can't be reached at first is an error, unless --wait says for how long it is tried
again: a unit that runs at boot needs that.

URI is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. The kernel must have its
driver (modprobe nbd). Attach ends when the device is detached (jnbd detach). On SIGTERM or
Ctrl-C it detaches the device if nobody uses it; else it leaves it as it is, and the same
attach takes it over later. SIGUSR1 makes it look at once whether the export has grown, which
it does by itself every ten seconds.`,
		Args: exactArgs("URI", "DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			uri, err := nbdclient.ParseURI(args[0])
			if err != nil {
				return &usageError{err}
			}
			index, err := kernel.Index(args[1])
			if err != nil {
				return &usageError{err}
			}
			if err := options.check(); err != nil {
				return err
			}
			if options.fork {
				return a.forkAttach(cmd, args)
			}
			a.logErrors = true
			if options.swap {
				prepareForSwap(a.log)
			}
			return a.attach(attach.Options{
				URI: uri, Index: index,
				Connections: options.connections, BlockSize: options.blockSize.bytes,
				Timeout: options.timeout, DeadTimeout: options.deadTimeout, Wait: options.wait,
				OnEvent: a.logAttachEvent(index),
			}, options.pidFile)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&options.connections, "connections", "C", 0, "how many connections to make (default: one for each processor, up to 4, if the server allows it)")
	flags.VarP(&options.blockSize, "block-size", "b", "sector size of the device (default 512, or more if the server takes no less)")
	flags.DurationVarP(&options.timeout, "timeout", "t", attach.DefaultTimeout, "give a connection up on which a request takes longer, and send it again on another")
	flags.DurationVar(&options.deadTimeout, "dead-timeout", attach.DefaultDeadTimeout, "how long requests wait for a server to come back before they fail")
	flags.DurationVar(&options.wait, "wait", 0, "how long to try again, at first, while the server can't be reached (default: not at all)")
	flags.StringVarP(&options.pidFile, "pidfile", "P", "", "write the process id into this file when the device can be used")
	flags.BoolVar(&options.fork, "fork", false, "return when the device can be used, and stay in the background")
	flags.BoolVar(&options.swap, "swap", false, "attach a disk that this host swaps to: lock memory and become an I/O flusher, as far as that is allowed")
	return cmd
}

// check refuses flags that can't be followed.
func (o *attachOptions) check() error {
	switch {
	case o.connections < 0 || o.connections > maxConnections:
		return usagef("--connections %d: want 1 to %d", o.connections, maxConnections)
	case o.timeout < time.Second:
		return usagef("--timeout %s: want at least 1s", o.timeout)
	case o.deadTimeout < time.Second:
		return usagef("--dead-timeout %s: want at least 1s", o.deadTimeout)
	case o.wait < 0:
		return usagef("--wait %s: want a time to wait, or 0s", o.wait)
	}
	return nil
}

// maxConnections is more than pays, and less than a server's limit.
const maxConnections = 64

// attach attaches and supervises.
func (a *app) attach(options attach.Options, pidFile string) error {
	ctx, stopSignals := catchSignals()
	defer stopSignals()
	check := make(chan os.Signal, 1)
	signal.Notify(check, syscall.SIGUSR1)
	defer signal.Stop(check)

	driver, err := kernel.Open()
	if err != nil {
		return err
	}
	defer driver.Close() // what is attached stays so
	release, err := superviseAlone(ctx, options.Index)
	if err != nil {
		return err
	}
	defer release()
	deaths, err := driver.Watch()
	if err != nil {
		return err
	}
	attached, err := attach.Attach(ctx, driver, deaths, kernel.Look, options)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		a.log.Info().Str("cause", cause.Error()).Msg("nothing was attached")
		return endedBy(cause)
	}
	if err != nil {
		return err
	}
	if err := kernel.Settle(options.Index); err != nil {
		a.log.Warn().Err(err).Msg("device is attached, and can't be looked at")
	}
	removePidFile, err := a.announceDevice(options.Index, pidFile)
	if err != nil {
		return errors.Join(err, attach.Detach(driver, options.Index))
	}
	defer removePidFile()
	err = attached.Supervise(ctx, check)
	if err == nil {
		a.log.Info().Msg("device was detached")
		return nil
	}
	if ctx.Err() == nil {
		return err
	}
	stopSignals() // a second signal ends the process at once
	return a.leave(driver, options.Index, context.Cause(ctx))
}

// announceDevice says that the device can be used.
func (a *app) announceDevice(index uint32, pidFile string) (removePidFile func(), err error) {
	removePidFile = func() {}
	if pidFile != "" {
		if err := writePidFile(pidFile); err != nil {
			return nil, err
		}
		removePidFile = func() { _ = os.Remove(pidFile) } // stale at worst
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.log.Warn().Err(err).Msg("could not tell systemd that the device is ready")
	}
	if _, err := fmt.Fprintf(a.stdout, "/dev/nbd%d\n", index); err != nil {
		removePidFile()
		return nil, fmt.Errorf("print the device: %w", err)
	}
	return removePidFile, nil
}

// leave is the end by a signal: the device is detached, unless somebody uses it.
func (a *app) leave(driver *kernel.Client, index uint32, cause error) error {
	err := attach.Detach(driver, index)
	switch {
	case errors.Is(err, attach.ErrInUse):
		a.log.Warn().Str("cause", cause.Error()).
			Msg("device is in use and stays attached; nobody makes its connections anew until the same attach runs again")
	case err == nil:
		a.log.Info().Str("cause", cause.Error()).Msg("device detached")
	case !errors.Is(err, attach.ErrNotAttached):
		return err
	}
	return endedBy(cause)
}

// endedBy is what the command returns when a signal ended it: Ctrl-C has an exit code of its own.
func endedBy(cause error) error {
	if errors.Is(cause, errInterrupted) {
		return errInterrupted
	}
	return nil
}

// logAttachEvent logs what the supervisor tells.
func (a *app) logAttachEvent(index uint32) func(attach.Event) {
	device := fmt.Sprintf("/dev/nbd%d", index)
	return func(e attach.Event) {
		var line *zerolog.Event
		var text string
		switch e.Kind {
		case attach.LinkDead:
			line, text = a.log.Warn(), "a connection died"
		case attach.Waiting:
			line, text = a.log.Warn().Err(e.Err), "no new connection yet; requests wait"
			if errors.Is(e.Err, attach.ErrRolledBack) || errors.Is(e.Err, attach.ErrOtherDisk) {
				line, text = a.log.Error().Err(e.Err), "the server is not what the device was attached to"
			}
		case attach.Reconnected:
			line, text = a.log.Info(), "connected again"
		case attach.NoServer:
			line, text = a.log.Warn().Err(e.Err), "no server yet; it is tried again for as long as --wait says"
		case attach.Grown:
			line, text = a.log.Info().Int64("size_bytes", e.Size), "device has grown"
		default:
			return
		}
		line.Str("device", device).Msg(text)
	}
}
