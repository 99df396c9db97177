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
	"github.com/spf13/pflag"

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
	// reopenTimeout bounds what is brought home while clients wait for a disk that is opened
	// anew. What is left then is recovered; nothing is lost.
	reopenTimeout = 2 * time.Second
)

type serveOptions struct {
	exportOptions
	listen         listenOptions
	config         string
	defaultExport  string
	memory         sizeFlag
	maxConnections int
	pidFile        string
	run            string
	exitWithParent bool
	swap           bool
	tls            tlsOptions
	metrics        string
	slowRequest    time.Duration
	traceEvery     int
}

// defaultServeOptions are the options before anybody has said anything.
func defaultServeOptions() serveOptions {
	return serveOptions{
		exportOptions:  exportOptions{recover: "prefix", commitInterval: 5 * time.Second},
		listen:         listenOptions{unixMode: modeFlag(nbd.SocketMode), ip: "127.0.0.1", port: nbd.DefaultPort},
		memory:         sizeFlag{bytes: defaultMemory},
		maxConnections: nbd.DefaultMaxConns,
		tls:            tlsOptions{verifyPeer: true},
		slowRequest:    time.Second,
		traceEvery:     100,
	}
}

func (a *app) serveCommand() *cobra.Command {
	options := defaultServeOptions()
	cmd := &cobra.Command{
		Use:   "serve [NAME=]DISK... | --config FILE",
		Short: "Serve disks over NBD",
		Long: `Serve serves one or more disks until SIGTERM or Ctrl-C. It first recovers what a
crash has left in the journal, then prints one line on stdout: the URI of the first disk.
(Not with --run and LISTEN_FDS, where stdout and the address are another program's.)

The first disk is also the default export (the empty name). A disk's export name is its
file's base name, unless NAME= says otherwise. With --size, disks that do not exist are
made. Without a listener flag the unix socket DISK.sock is used; sockets passed by
systemd (LISTEN_FDS) go before both.

With --config, more disks and settings come from a TOML file: these flags by their names,
and tables [export.NAME] with disk, description and flags that are about a disk. SIGHUP
reads the file again: exports come and go, those that stay are not disturbed. Without
--config, SIGHUP stops the server. A setting is taken from the flag, else from the
environment (JNBD_READ_ONLY for --read-only), else from the file.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a.logErrors = true
			v, err := newInvocation(cmd.Flags(), &options, args)
			if err != nil {
				return err
			}
			return a.serve(v)
		},
	}
	options.register(cmd.Flags())
	return cmd
}

// register makes flags of the options. What they hold is the flags' default.
func (o *serveOptions) register(flags *pflag.FlagSet) {
	o.exportOptions.register(flags)
	flags.StringVar(&o.config, "config", o.config, "read further settings and disks from this TOML file, and again at SIGHUP")
	flags.StringVar(&o.defaultExport, "default", o.defaultExport, "the export of clients that name none (default: the first)")
	flags.StringVarP(&o.listen.unix, "unix", "U", o.listen.unix, "listen on this unix socket (default DISK.sock)")
	flags.Var(&o.listen.unixMode, "unix-mode", "permissions of the unix socket in octal, narrowed by the umask: 660 lets its group connect, and so write the disk")
	flags.StringVarP(&o.listen.ip, "ipaddr", "i", o.listen.ip, "listen on this address for TCP")
	flags.Uint16VarP(&o.listen.port, "port", "p", o.listen.port, "listen on this TCP port; 0 picks a free one")
	flags.Var(&o.memory, "memory", "memory for all disks and clients together, at least "+formatSize(minMemory))
	flags.IntVar(&o.maxConnections, "max-connections", o.maxConnections, "how many connections may be open at a time, of all clients together; a further one is closed at once")
	flags.StringVar(&o.tls.policy, "tls", o.tls.policy, "off, on (clients choose) or require (default: require with --tls-certificates, else off)")
	flags.StringVar(&o.tls.certificates, "tls-certificates", o.tls.certificates, "directory with server-cert.pem, server-key.pem and ca-cert.pem; 'jnbd tls init' makes one")
	flags.BoolVar(&o.tls.verifyPeer, "tls-verify-peer", o.tls.verifyPeer, "let only clients in that show a certificate of the authority in ca-cert.pem")
	flags.StringVarP(&o.pidFile, "pidfile", "P", o.pidFile, "write the process id into this file when ready")
	flags.StringVar(&o.run, "run", o.run, "run this shell command with $uri, $unixsocket and $nbd set, stop when it ends, and exit with its code")
	flags.BoolVar(&o.exitWithParent, "exit-with-parent", o.exitWithParent, "stop when the parent process ends")
	flags.DurationVar(&o.slowRequest, "slow-request", o.slowRequest, "log a request that takes this long; 0 for none")
	flags.IntVar(&o.traceEvery, "trace-every", o.traceEvery, "with --log-level trace, log one request in so many")
	flags.BoolVar(&o.swap, "swap", o.swap, "serve the kernel of this host safely, for swap or file systems: lock memory and become an I/O flusher, as far as that is allowed")
	flags.StringVar(&o.metrics, "metrics", o.metrics, "tell Prometheus (/metrics) and health checks (/healthz) on this address; PORT alone is of the loopback")
}

// serve is steps 1 to 6.
func (a *app) serve(invocation *invocation) (err error) {
	plan, err := invocation.plan()
	if err != nil {
		return err
	}
	options := plan.options
	var ctx context.Context
	var stopSignals func()
	var reloads <-chan os.Signal // none without a configuration file
	if options.config == "" {
		ctx, stopSignals = catchSignals()
	} else {
		ctx, reloads, stopSignals = catchReloads()
	}
	defer stopSignals()
	if options.exitWithParent {
		if err := exitWithParent(); err != nil {
			return err
		}
	}
	budget := splitMemory(options.memory.bytes, len(plan.exports))
	debug.SetMemoryLimit(options.memory.bytes + memoryHeadroom)

	if options.swap {
		prepareForSwap(a.log)
	}
	a.warnOfFiles(options.maxConnections, len(plan.exports))
	s := &service{app: a, options: options}
	if s.tls, err = newLiveTLS(options.tls); err != nil {
		return err
	}
	if s.exports, err = a.openExports(ctx, plan.exports, budget); err != nil {
		return err
	}
	defer func() { err = alsoError(err, a.closeExports(s.exports)) }()
	s.server = a.newServer(s.exports, options, budget)
	s.server.TLS, s.server.TLSConfig = s.tls.policy, s.tls.config()
	commands := make(chan command)
	if s.watch, err = a.openWatch(options.metrics, s.server, s.exports, commands); err != nil {
		return err
	}
	defer func() { err = alsoError(err, s.watch.Close()) }()
	listeners, passed, err := openListeners(options.listen, s.exports[0])
	if err != nil {
		return err
	}
	server := s.server
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l) }() // ends with Shutdown below, or its own failure
	}
	defer func() { err = alsoError(err, a.drain(server, ended, len(listeners))) }()

	uri := nbd.URI(listeners[0], s.exports[0].spec.name)
	if server.TLS == nbd.TLSRequire {
		uri = nbd.SecureURI(listeners[0], s.exports[0].spec.name)
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
	for {
		select {
		case <-ctx.Done():
			a.log.Info().Str("cause", context.Cause(ctx).Error()).Msg("stopping")
			stopSignals() // a second signal ends the process at once
			if errors.Is(context.Cause(ctx), errInterrupted) {
				return errInterrupted
			}
			return nil
		case <-reloads:
			s.reload(ctx, invocation)
		case c := <-commands:
			c.done <- c.do(c.ctx, s)
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
func (o *serveOptions) check() error {
	if err := o.exportOptions.check(); err != nil {
		return err
	}
	if _, err := o.tls.resolve(); err != nil {
		return err
	}
	if o.slowRequest < 0 {
		return usagef("--slow-request %s is negative", o.slowRequest)
	}
	if o.traceEvery < 1 {
		return usagef("--trace-every %d: want 1 for all, or more", o.traceEvery)
	}
	if o.maxConnections < 1 {
		return usagef("--max-connections %d: want at least 1", o.maxConnections)
	}
	if o.memory.bytes < minMemory {
		return usagef("--memory %s is too little: want at least %s", formatSize(o.memory.bytes), formatSize(minMemory))
	}
	return nil
}

// mayRestrict refuses to restrict an export to names that nobody can prove.
func (o *serveOptions) mayRestrict(x *exportOptions) error {
	policy, err := o.tls.resolve()
	if err != nil {
		return err
	}
	if len(x.tlsAllow) > 0 && (policy == nbd.TLSOff || !o.tls.verifyPeer) {
		return usagef("--tls-allow needs --tls-certificates DIR, and clients' certificates to be verified")
	}
	return nil
}

// catchSignals returns a context that ends at SIGTERM, SIGHUP or SIGINT, with the signal
// as its cause: errInterrupted for SIGINT. The returned function gives the signals their
// usual effect back, and may be called twice.
func catchSignals() (context.Context, func()) {
	return catchThese(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
}

// catchReloads is catchSignals for a server that reads its configuration again at SIGHUP:
// that is delivered on the channel. Several that come during one reload are one.
func catchReloads() (context.Context, <-chan os.Signal, func()) {
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	ctx, stop := catchThese(syscall.SIGTERM, syscall.SIGINT)
	return ctx, reloads, stop // SIGHUP stays caught: it must not kill a server that stops
}

func catchThese(these ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, these...)
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
	version, _ := buildVersion()
	for _, l := range listeners {
		a.log.Info().Str("address", l.Addr().String()).Str("version", version).Msg("listening")
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
