package main

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"

	"jnbd/nbd"
)

// service is what serve has running, and what a reload changes of it.
//
// A reload (SIGHUP, with --config):
//
//  1. The file is read and checked whole. A mistake in it changes nothing.
//  2. Exports that are not in it any more, or that are to be another way, are removed:
//     their clients' outstanding requests finish, the disk is checkpointed and closed.
//  3. Exports that are new are opened. One that fails is logged, and the others go on.
//  4. The memory is divided again, and certificates are read again.
//
// All other exports and their clients notice nothing. What is about the process itself
// (addresses, memory, TLS's policy) needs a restart, and the log says so.
type service struct {
	app     *app
	options serveOptions
	tls     *liveTLS
	server  *nbd.Server
	watch   *watch
	exports []*export // guarded by nobody: serve's goroutine owns them
}

// reload follows a new plan.
func (s *service) reload(ctx context.Context, invocation *invocation) {
	a := s.app
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	defer s.notify(daemon.SdNotifyReady)
	next, err := invocation.plan()
	if err != nil {
		a.log.Error().Err(err).Msg("the configuration has an error; nothing was changed")
		return
	}
	if keys := needRestart(s.options, next.options); len(keys) > 0 {
		a.log.Warn().Strs("keys", keys).Msg("these settings have changed, and need a restart")
	}
	if err := s.tls.reload(); err != nil {
		a.log.Error().Err(err).Msg("the certificates can't be read; the old ones stay in use")
	}
	removed, failed := s.removeOthers(ctx, next.exports)
	budget := splitMemory(s.options.memory.bytes, len(next.exports))
	for _, e := range s.exports {
		e.disk.SetMemory(budget.disk)
	}
	added := 0
	for _, spec := range next.exports {
		if ctx.Err() != nil || s.running(spec.name) != nil {
			continue
		}
		if err := s.add(ctx, spec, budget); err != nil {
			a.log.Error().Err(err).Str("export", spec.name).Msg("export can't be served; the others go on")
			failed++
			continue
		}
		added++
	}
	for _, spec := range next.exports { // the first that could be opened
		if s.running(spec.name) != nil {
			_ = s.server.SetDefault(spec.name) // it is there
			break
		}
	}
	a.log.Info().Int("added", added).Int("removed", removed).Int("failed", failed).
		Int("exports", len(s.exports)).Msg("configuration reloaded")
}

// running is the export of a name, or nil.
func (s *service) running(name string) *export {
	for _, e := range s.exports {
		if e.spec.name == name {
			return e
		}
	}
	return nil
}

// removeOthers removes the exports that are not to be served as they are.
func (s *service) removeOthers(ctx context.Context, wanted []exportSpec) (removed, failed int) {
	for _, e := range slices.Clone(s.exports) {
		if slices.ContainsFunc(wanted, func(w exportSpec) bool { return reflect.DeepEqual(w, e.spec) }) {
			continue
		}
		removed++
		if err := s.remove(ctx, e); err != nil {
			s.app.log.Error().Err(err).Str("export", e.spec.name).Msg("export was removed, and its disk not closed in order")
			failed++
		}
	}
	return removed, failed
}

// remove ends an export and closes its disk.
func (s *service) remove(ctx context.Context, e *export) error {
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	err := s.server.RemoveExport(drain, e.spec.name)
	s.watch.remove(s.app, e.spec.name)
	s.exports = slices.DeleteFunc(s.exports, func(other *export) bool { return other == e })
	s.app.log.Info().Str("export", e.spec.name).Str("disk", e.store.place.disk).Msg("export removed")
	return errors.Join(err, s.app.closeExports([]*export{e}))
}

// add opens a disk and serves it.
func (s *service) add(ctx context.Context, spec exportSpec, budget memoryBudget) error {
	e, err := s.app.openExport(ctx, spec, budget)
	if err != nil {
		return err
	}
	if err := s.server.AddExport(e.served()); err != nil {
		return errors.Join(err, s.app.closeExports([]*export{e}))
	}
	s.exports = append(s.exports, e)
	s.watch.add(s.app, e)
	s.app.log.Info().Str("export", spec.name).Str("disk", e.store.place.disk).Msg("export added")
	return nil
}

// notify tells systemd of a state.
func (s *service) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.app.log.Warn().Err(err).Msg("could not tell systemd of the reload")
	}
}

// needRestart are the flags that differ between the two and are not about a disk.
func needRestart(old, next serveOptions) []string {
	flagsOf := func(o *serveOptions) *pflag.FlagSet {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		o.register(flags)
		return flags
	}
	aboutDisks := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(exportOptions).register(aboutDisks)
	was, is := flagsOf(&old), flagsOf(&next)
	var keys []string
	is.VisitAll(func(f *pflag.Flag) {
		if f.Name != "default" && aboutDisks.Lookup(f.Name) == nil && f.Value.String() != was.Lookup(f.Name).Value.String() {
			keys = append(keys, f.Name)
		}
	})
	return keys
}
