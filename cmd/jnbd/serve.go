package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"jnbd/nbd"
)

// Serving disks:
//
//  1. Flags are checked, signals are caught from here on.
//  2. openExports opens every disk, makes those that --size allows, and recovers them
//     (exports.go). When it returns, all can be read and written.
//  3. openWatch lets operators look in (watch.go), and openListeners binds the sockets (listeners.go).
//  4. announce tells the world: pid file, systemd's READY, the URI on stdout.
//  5. The server runs until a signal, the end of --run's command (child.go), or a failure.
//  6. stop undoes it in reverse: no new connections, outstanding requests finished, every
//     log checkpointed and marked clean, files closed.

const (
	// drainTimeout is how long clients' outstanding requests may take at a stop.
	drainTimeout = 30 * time.Second
	// checkpointTimeout is how long bringing the log home may take at a stop. What is left
	// then is recovered at the next start; nothing is lost.
	checkpointTimeout = 60 * time.Second
)

type serveOptions struct {
	create         createOptions // --size, --journal-size, --journal, --mode: for disks to be made
	listen         listenOptions
	readOnly       bool
	recover        string
	commitInterval time.Duration
	memory         sizeFlag
	pidFile        string
	run            string
	exitWithParent bool
	acceptBacking  bool
	tls            tlsOptions
	tlsAllow       []string // who may use the exports
	metrics        string
}

func (a *app) serveCommand() *cobra.Command {
	options := serveOptions{memory: sizeFlag{bytes: defaultMemory}}
	cmd := &cobra.Command{
		Use:   "serve [NAME=]DISK...",
		Short: "Serve disks over NBD",
		Long: `Serve serves one or more disks until SIGTERM or Ctrl-C. It first recovers what a
crash has left in the journal, then prints one line on stdout: the URI of the first disk.
(Not with --run and LISTEN_FDS, where stdout and the address are another program's.)

The first disk is also the default export (the empty name). A disk's export name is its
file's base name, unless NAME= says otherwise. With --size, disks that do not exist are
made. Without a listener flag the unix socket DISK.sock is used; sockets passed by
systemd (LISTEN_FDS) go before both.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("serve: DISK is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.logErrors = true
			options.listen.given(cmd.Flags())
			return a.serve(args, options)
		},
	}
	flags := cmd.Flags()
	flags.Var(&options.create.size, "size", "make disks that do not exist, of this size")
	flags.Var(&options.create.journalSize, "journal-size", "size of a new disk's journal (default "+formatSize(defaultJournalBytes)+")")
	flags.StringVar(&options.create.journal, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	flags.StringVar(&options.create.mode, "mode", "", "how writes reach their place: data, ordered or auto; changes an existing disk's mode for good (default: as it is)")
	flags.StringVarP(&options.listen.unix, "unix", "U", "", "listen on this unix socket (default DISK.sock)")
	flags.StringVarP(&options.listen.ip, "ipaddr", "i", "127.0.0.1", "listen on this address for TCP")
	flags.Uint16VarP(&options.listen.port, "port", "p", 10809, "listen on this TCP port; 0 picks a free one")
	flags.BoolVarP(&options.readOnly, "read-only", "r", false, "serve without a single write, neither by clients nor by recovery")
	flags.StringVar(&options.recover, "recover", "prefix", "where to cut the log after a crash: prefix (the last whole request) or barrier (the last flush)")
	flags.DurationVar(&options.commitInterval, "commit-interval", 5*time.Second, "flush the log this often when no client does; 0 for never")
	flags.Var(&options.memory, "memory", "memory for all disks and clients together, at least "+formatSize(minMemory))
	flags.StringVar(&options.tls.policy, "tls", "", "off, on (clients choose) or require (default: require with --tls-certificates, else off)")
	flags.StringVar(&options.tls.certificates, "tls-certificates", "", "directory with server-cert.pem, server-key.pem and ca-cert.pem; 'jnbd tls init' makes one")
	flags.BoolVar(&options.tls.verifyPeer, "tls-verify-peer", true, "let only clients in that show a certificate of the authority in ca-cert.pem")
	flags.StringSliceVar(&options.tlsAllow, "tls-allow", nil, "serve only clients whose certificate is issued to this name; can be repeated")
	flags.StringVarP(&options.pidFile, "pidfile", "P", "", "write the process id into this file when ready")
	flags.StringVar(&options.run, "run", "", "run this shell command with $uri, $unixsocket and $nbd set, stop when it ends, and exit with its code")
	flags.BoolVar(&options.exitWithParent, "exit-with-parent", false, "stop when the parent process ends")
	flags.BoolVar(&options.acceptBacking, "accept-backing", false, "serve a disk even if something else has written to it since its last use")
	flags.StringVar(&options.metrics, "metrics", "", "tell Prometheus (/metrics) and health checks (/healthz) on this address; PORT alone is of the loopback")
	return cmd
}

// serve is steps 1 to 6.
func (a *app) serve(args []string, options serveOptions) (err error) {
	if err := options.check(args); err != nil {
		return err
	}
	ctx, stopSignals := catchSignals()
	defer stopSignals()
	if options.exitWithParent {
		if err := exitWithParent(); err != nil {
			return err
		}
	}
	budget := splitMemory(options.memory.bytes, len(args))
	debug.SetMemoryLimit(options.memory.bytes + memoryHeadroom)

	policy, tlsConfig, err := options.tls.config()
	if err != nil {
		return err
	}
	exports, err := a.openExports(ctx, args, options, budget)
	if err != nil {
		return err
	}
	defer func() { err = alsoError(err, a.closeExports(exports)) }()
	server := a.newServer(exports, options, budget)
	server.TLS, server.TLSConfig = policy, tlsConfig
	watched, err := a.openWatch(options.metrics, server, exports)
	if err != nil {
		return err
	}
	defer func() { err = alsoError(err, watched.Close()) }()
	listeners, passed, err := openListeners(options.listen, exports[0])
	if err != nil {
		return err
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l) }() // ends with Shutdown below, or its own failure
	}
	defer func() { err = alsoError(err, a.drain(server, ended, len(listeners))) }()

	uri := nbd.URI(listeners[0], exports[0].name)
	if policy == nbd.TLSRequire {
		uri = nbd.SecureURI(listeners[0], exports[0].name)
	}
	printed := ""
	if !passed && options.run == "" {
		printed = uri
	}
	removePidFile, err := a.announce(options.pidFile, printed, listeners)
	if err != nil {
		return err
	}
	defer removePidFile()

	var child *runChild
	if options.run != "" {
		if child, err = startChild(options.run, options.tls.localURI(uri), listeners[0]); err != nil {
			return err
		}
		defer child.stop()
	}
	select {
	case <-ctx.Done():
		a.log.Info().Str("cause", context.Cause(ctx).Error()).Msg("stopping")
		stopSignals() // a second signal ends the process at once
		if errors.Is(context.Cause(ctx), errInterrupted) {
			return errInterrupted
		}
		return nil
	case code := <-child.done():
		if code != 0 {
			return &childError{code}
		}
		return nil
	case err := <-ended:
		ended <- err // drain counts every listener's end
		return fmt.Errorf("listen: %w", err)
	}
}

// alsoError adds a failure of stopping to why serve stopped. Without one the cause stays
// as it is, so that main can tell a plain Ctrl-C from one that went wrong.
func alsoError(cause, failed error) error {
	if failed == nil {
		return cause
	}
	return errors.Join(cause, failed)
}

// check refuses flags that can't be followed, before anything is touched.
func (o *serveOptions) check(args []string) error {
	if len(args) > 1 && o.create.journal != "" && o.create.journal != internalJournal {
		return usagef("--journal PATH is for one disk, not for %d", len(args))
	}
	if o.readOnly && o.create.size.given {
		return usagef("--read-only and --size: a disk can't be made without writing")
	}
	if _, err := parseMode(o.create.mode); err != nil {
		return err
	}
	if o.readOnly && o.create.mode != "" {
		return usagef("--read-only and --mode: the mode can't be changed without writing")
	}
	policy, err := o.tls.resolve()
	if err != nil {
		return err
	}
	if len(o.tlsAllow) > 0 && (policy == nbd.TLSOff || !o.tls.verifyPeer) {
		return usagef("--tls-allow needs --tls-certificates DIR, and clients' certificates to be verified")
	}
	if o.recover != "prefix" && o.recover != "barrier" {
		return usagef("--recover %q: want prefix or barrier", o.recover)
	}
	if o.commitInterval < 0 {
		return usagef("--commit-interval %s is negative", o.commitInterval)
	}
	if o.memory.bytes < minMemory {
		return usagef("--memory %s is too little: want at least %s", formatSize(o.memory.bytes), formatSize(minMemory))
	}
	return nil
}

// catchSignals returns a context that ends at SIGTERM, SIGHUP or SIGINT, with the signal
// as its cause: errInterrupted for SIGINT. The returned function gives the signals their
// usual effect back, and may be called twice.
func catchSignals() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() { // ends with the context
		select {
		case s := <-signals:
			if s == syscall.SIGINT {
				cancel(errInterrupted)
			} else {
				cancel(fmt.Errorf("signal %s", s))
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// announce says that the disks can be used. The pid file is complete before the URI
// appears, so a script that waits for the line can read it. An empty uri is not printed:
// stdout belongs to the command of --run, or to the program that passed the socket.
func (a *app) announce(pidFile, uri string, listeners []net.Listener) (removePidFile func(), err error) {
	removePidFile = func() {}
	if pidFile != "" {
		if err := writePidFile(pidFile); err != nil {
			return nil, err
		}
		removePidFile = func() { _ = os.Remove(pidFile) } // stale at worst, and named so in the log before
	}
	for _, l := range listeners {
		a.log.Info().Str("address", l.Addr().String()).Msg("listening")
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.log.Warn().Err(err).Msg("could not tell systemd that the disks are ready")
	}
	if uri == "" {
		return removePidFile, nil
	}
	if _, err := fmt.Fprintln(a.stdout, uri); err != nil {
		removePidFile()
		return nil, fmt.Errorf("print uri: %w", err)
	}
	return removePidFile, nil
}

// drain ends the server: no new connections, outstanding requests answered. It waits for
// every listener's goroutine.
func (a *app) drain(server *nbd.Server, ended <-chan error, listeners int) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
		a.log.Warn().Err(err).Msg("could not tell systemd that jnbd stops")
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		a.log.Warn().Dur("waited", drainTimeout).Msg("clients still had requests outstanding; closing them")
		err = server.Close()
	}
	for range listeners {
		<-ended
	}
	return err
}
