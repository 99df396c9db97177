package main

import (
	"errors"
	"time"

	"jnbd/metrics"
	"jnbd/nbd"
)

// watch is how operators look into a server: a control socket beside each disk, for jnbd's
// own commands, and with --metrics an HTTP address for everybody else.
type watch struct{ servers []*metrics.Server }

// openWatch begins to answer. A disk can be served without its control socket, where there
// is no place for it; an address that was asked for must be had.
func (a *app) openWatch(address string, server *nbd.Server, exports []*export) (_ *watch, err error) {
	version, _ := buildVersion()
	source := &metrics.Source{Version: version, Started: time.Now(), Server: server}
	for _, e := range exports {
		source.Disks = append(source.Disks, metrics.DiskSource{
			Export: e.name, Path: e.store.place.disk, ReadOnly: e.readOnly, Disk: e.disk, Flush: e.flush,
		})
	}
	w := &watch{}
	if address != "" {
		l, err := metrics.Listen(address)
		if err != nil {
			return nil, err
		}
		w.servers = append(w.servers, metrics.Serve(l, metrics.Handler(source)))
		a.log.Info().Str("address", "http://"+l.Addr().String()).Msg("metrics")
	}
	for _, e := range exports {
		l, err := nbd.Listen("unix", metrics.ControlSocket(e.store.place.disk))
		if err != nil {
			a.log.Warn().Err(err).Msg("no control socket: jnbd info and jnbd top can't see inside")
			continue
		}
		w.servers = append(w.servers, metrics.Serve(l, metrics.ForDisk(source, e.name)))
	}
	return w, nil
}

// Close ends all of it, and removes the sockets.
func (w *watch) Close() error {
	var failed error
	for _, s := range w.servers {
		failed = errors.Join(failed, s.Close())
	}
	return failed
}
