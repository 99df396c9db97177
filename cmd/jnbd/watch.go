package main

import (
	"errors"
	"time"

	"jnbd/metrics"
	"jnbd/nbd"
)

// watch is how operators look into a server: a control socket beside each disk, for jnbd's
// own commands, and with --metrics an HTTP address for everybody else.
type watch struct {
	source   *metrics.Source
	http     *metrics.Server            // --metrics; nil without
	controls map[string]*metrics.Server // by export
}

// openWatch begins to answer. A disk can be served without its control socket, where there
// is no place for it; an address that was asked for must be had.
func (a *app) openWatch(address string, server *nbd.Server, exports []*export) (_ *watch, err error) {
	version, _ := buildVersion()
	source := &metrics.Source{Version: version, Started: time.Now(), Server: server}
	w := &watch{source: source, controls: map[string]*metrics.Server{}}
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
	w.source.Add(metrics.DiskSource{
		Export: e.spec.name, Path: e.store.place.disk, ReadOnly: e.spec.readOnly, Disk: e.disk, Flush: e.flush,
	})
	l, err := nbd.Listen("unix", metrics.ControlSocket(e.store.place.disk))
	if err != nil {
		a.log.Warn().Err(err).Msg("no control socket: jnbd info and jnbd top can't see inside")
		return
	}
	w.controls[e.spec.name] = metrics.Serve(l, metrics.ForDisk(w.source, e.spec.name))
}

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
