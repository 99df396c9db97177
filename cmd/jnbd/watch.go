package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"jnbd/metrics"
	"jnbd/nbd"
)

// watch is how operators look into a server: a control socket beside each disk, for jnbd's
// own commands, and with --metrics an HTTP address for everybody else.
type watch struct {
	source   *metrics.Source
	commands chan<- command             // what was asked for over control sockets
	http     *metrics.Server            // --metrics; nil without
	controls map[string]*metrics.Server // by export
}

// openWatch begins to answer. A disk can be served without its control socket, where there
// is no place for it; an address that was asked for must be had.
func (a *app) openWatch(address string, server *nbd.Server, exports []*export, commands chan<- command) (_ *watch, err error) {
	version, _ := buildVersion()
	source := &metrics.Source{Version: version, Started: time.Now(), Server: server}
	w := &watch{source: source, commands: commands, controls: map[string]*metrics.Server{}}
	if address != "" {
		l, err := metrics.Listen(address)
		if err != nil {
			return nil, err
		}
		w.http = metrics.Serve(l, metrics.Handler(source))
		a.log.Info().Str("address", "http://"+l.Addr().String()).Msg("metrics")
	}
	for _, e := range exports {
		w.add(a, e)
	}
	return w, nil
}

// add begins to answer for an export.
func (w *watch) add(a *app, e *export) {
	w.source.Add(e.source())
	l, err := nbd.Listen("unix", metrics.ControlSocket(e.store.place.disk))
	if err != nil {
		a.log.Warn().Err(err).Msg("no control socket: jnbd info and jnbd top can't see inside")
		return
	}
	grow := func(ctx context.Context, bytes int64) error {
		return w.ask(ctx, func(ctx context.Context, s *service) error { return s.resizeExport(ctx, e, bytes) })
	}
	w.controls[e.spec.name] = metrics.Serve(l, metrics.WithResize(metrics.ForDisk(w.source, e.spec.name), grow))
}

// command is something that serve's goroutine is to do.
type command struct {
	ctx  context.Context
	do   func(ctx context.Context, s *service) error
	done chan<- error // capacity 1
}

// ask has serve's goroutine do something, and waits for it.
func (w *watch) ask(ctx context.Context, do func(ctx context.Context, s *service) error) error {
	done := make(chan error, 1)
	select {
	case w.commands <- command{ctx, do, done}:
		return <-done
	case <-ctx.Done():
		return fmt.Errorf("the server is busy: %w", ctx.Err())
	}
}

// source is what the figures of an export are made of.
func (e *export) source() metrics.DiskSource {
	return metrics.DiskSource{
		Export: e.spec.name, Path: e.store.place.disk, ReadOnly: e.spec.readOnly, Disk: e.disk, Flush: e.flush,
	}
}

// replace tells of an export's new disk. Its counters begin anew.
func (w *watch) replace(e *export) { w.source.Replace(e.source()) }

// remove ends to answer for an export.
func (w *watch) remove(a *app, export string) {
	w.source.Remove(export)
	if control := w.controls[export]; control != nil {
		delete(w.controls, export)
		if err := control.Close(); err != nil {
			a.log.Warn().Err(err).Str("export", export).Msg("control socket")
		}
	}
}

// Close ends all of it, and removes the sockets.
func (w *watch) Close() error {
	var failed error
	if w.http != nil {
		failed = w.http.Close()
	}
	for _, s := range w.controls {
		failed = errors.Join(failed, s.Close())
	}
	return failed
}
