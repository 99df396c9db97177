package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"jnbd/attach"
	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd"
	"jnbd/wal"
)

// export is one disk being served.
type export struct {
	spec  exportSpec
	store *store
	disk  *journal.Disk // serve's goroutine exchanges it
	live  *liveDisk     // the same, for the clients
	flush *nbd.Latency  // of the log
}

// served is the export as the server wants it.
func (e *export) served() nbd.Export {
	return nbd.Export{
		Name: e.spec.name, Describe: describe(e.disk.Stats().UUID, e.live, e.spec.description), Device: e.live,
		ReadOnly: e.spec.readOnly, AllowedNames: e.spec.tlsAllow,
	}
}

// openExports opens and recovers every disk. After an error none is left open.
func (a *app) openExports(ctx context.Context, specs []exportSpec, budget memoryBudget) (exports []*export, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.closeExports(exports))
			exports = nil
		}
	}()
	for _, spec := range specs {
		opened, err := a.openExport(ctx, spec, budget)
		if err != nil {
			return exports, err
		}
		exports = append(exports, opened)
	}
	return exports, nil
}

// splitExport reads [NAME=]DISK. A path may hold an equals sign behind its first slash:
// ./a=b.img is a path.
func splitExport(arg string) (name, diskPath string) {
	name, diskPath, named := strings.Cut(arg, "=")
	if named && name != "" && !strings.Contains(name, "/") {
		return name, diskPath
	}
	return filepath.Base(arg), arg
}

// createMissing makes a disk that does not exist, if --size allows it, and finishes one that
// a create which was killed has left without a journal.
func (a *app) createMissing(ctx context.Context, diskPath string, options *exportOptions) error {
	if !options.create.size.given {
		return nil
	}
	if _, err := os.Stat(diskPath); err == nil {
		if unfinished, err := options.create.unfinished(diskPath); err != nil || !unfinished {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil // open tells what is wrong
	}
	made, err := a.create(ctx, diskPath, options.create)
	if err != nil {
		return err
	}
	a.log.Info().Str("disk", diskPath).Int64("size_bytes", made.super.DiskBytes).
		Str("journal", made.journalName()).Int64("log_bytes", made.super.LogBytes).Msg("disk created")
	return nil
}

// unfinished reports whether the disk is an image file of exactly --size, or still empty,
// without a journal. With an internal one it may have been made longer for it already. It
// takes no lock: create looks again.
func (o *createOptions) unfinished(diskPath string) (bool, error) {
	plan, err := planCreate(diskPath, *o)
	if errors.Is(err, fs.ErrExist) {
		return false, nil // it has a journal, or there is a file where --journal points to
	}
	if err != nil {
		return false, err
	}
	if plan.blockDevice {
		return false, nil
	}
	f, err := disk.OpenFile(plan.disk, disk.FileOptions{ReadOnly: true, NoLock: true})
	if err != nil {
		return false, err
	}
	defer f.Close() // only read
	switch _, err := jsuper.Probe(f, jsuper.Internal); {
	case err == nil:
		return false, nil
	case !errors.Is(err, jsuper.ErrNoJournal):
		return false, nil // opening it tells what is wrong
	}
	if err := plan.settle(f.Size()); err != nil {
		return false, err
	}
	whole := o.size.bytes
	if plan.placement == jsuper.Internal {
		whole = roundUp(whole, sizeLine) + journal.JournalSize(plan.format)
	}
	return f.Size() == 0 || f.Size() == o.size.bytes || f.Size() == whole, nil
}

// openExport opens and recovers one disk, which it makes if it is missing and may be made,
// and logs what recovery found.
func (a *app) openExport(ctx context.Context, spec exportSpec, budget memoryBudget) (_ *export, err error) {
	diskPath, options := spec.disk, &spec.exportOptions
	if err := a.createMissing(ctx, diskPath, options); err != nil {
		return nil, err
	}
	at, err := locate(diskPath, options.create.journal)
	if err != nil {
		return nil, err
	}
	opened, err := openStore(at, access{readOnly: options.readOnly})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.Close())
		}
	}()
	super, err := opened.probe()
	if err != nil {
		return nil, err
	}
	if err := options.create.matches(diskPath, super); err != nil {
		return nil, err
	}
	e := &export{spec: spec, store: opened, flush: &nbd.Latency{}}
	if e.disk, err = a.openEngine(e, budget, 0); err != nil {
		return nil, opened.explain(err)
	}
	e.live = &liveDisk{disk: e.disk}
	log := a.log.With().Str("disk", diskPath).Logger()
	found := e.disk.Recovery()
	line := log.Info().Str("state", found.State.String()).Dur("took_ms", found.Took).
		Int("frames", found.Frames).Int("records", found.Records).Int64("recovered_bytes", found.Bytes).
		Uint64("cut_seq", found.CutSeq).Int("dropped_frames", found.DroppedFrames).Int64("dropped_bytes", found.DroppedBytes)
	if found.State == jsuper.Dirty {
		line.Msg("disk recovered")
	} else {
		line.Msg("disk opened")
	}
	if mode := e.disk.Stats().Mode; mode != super.Mode {
		log.Info().Str("mode", mode.String()).Str("old_mode", super.Mode.String()).Msg("mode changed")
	}
	return e, nil
}

// openEngine opens the disk of an export; with grow larger, so many bytes.
func (a *app) openEngine(e *export, budget memoryBudget, grow int64) (*journal.Disk, error) {
	options := &e.spec.exportOptions
	var mode jsuper.Mode // 0: as it is
	if options.create.mode != "" {
		var err error
		if mode, err = parseMode(options.create.mode); err != nil {
			return nil, err
		}
	}
	cut := wal.CutPrefix
	if options.recover == "barrier" {
		cut = wal.CutBarrier
	}
	log := a.log.With().Str("disk", e.spec.disk).Logger()
	return journal.Open(e.store.parts(), journal.Options{
		Grow:           grow,
		BootID:         hostBootID(),
		Recover:        cut,
		CommitInterval: options.commitInterval,
		Mode:           mode,
		Memory:         budget.disk,
		ReadOnly:       options.readOnly,
		AcceptBacking:  options.acceptBacking,
		OnFlush:        func(took time.Duration) { e.flush.Observe(took, 1) },
		OnHostFull: func(cause error) {
			if cause == nil {
				log.Info().Msg("the host has room again: what the log holds goes home")
				return
			}
			log.Warn().Err(cause).Msg("the host is full: writes go to the log, and wait once it is full, until there is room")
		},
		OnPoison: func(cause error) {
			log.Error().Err(cause).Msg("disk is poisoned: writes and flushes fail until jnbd is restarted")
		},
	})
}

// matches refuses a --size that contradicts an existing disk.
func (o *createOptions) matches(diskPath string, super *jsuper.Superblock) error {
	if o.size.given && o.size.bytes != super.DiskBytes {
		return fmt.Errorf("disk %s exists with %d bytes, not --size %d: leave --size away", diskPath, super.DiskBytes, o.size.bytes)
	}
	return nil
}

// newServer is the NBD server of the exports.
func (a *app) newServer(exports []*export, options serveOptions, budget memoryBudget) *nbd.Server {
	events := &eventLog{log: a.log}
	server := &nbd.Server{
		MaxConns:       options.maxConnections,
		MaxBufferBytes: budget.buffers,
		Errno:          errnoOf,
		OnEvent:        events.add,
		SlowRequest:    options.slowRequest,
	}
	if a.log.GetLevel() <= zerolog.TraceLevel {
		server.TraceEvery = options.traceEvery
	}
	for _, e := range exports {
		server.Exports = append(server.Exports, e.served())
	}
	return server
}

// describe is what clients are told of a disk: which one it is, that it has lost nothing
// (decision 12), and the operator's own words.
func describe(disk [16]byte, d *liveDisk, own string) func() string {
	uuid := jsuper.FormatUUID(disk)
	return func() string {
		text := "jnbd disk " + uuid
		if incarnation, seq := d.Incarnation(); incarnation != 0 {
			text = attach.Identity{Disk: uuid, Incarnation: fmt.Sprintf("%016x", incarnation)}.Describe(seq)
		}
		if own == "" || len(text)+len(": ")+len(own) > maxDescription {
			return text
		}
		return text + ": " + own
	}
}

// maxDescription is the protocol's limit, in bytes.
const maxDescription = 4096

// errnoOf is what a client is told of the engine's errors.
func errnoOf(err error) nbd.Errno {
	switch {
	case errors.Is(err, journal.ErrReadOnly):
		return nbd.EPERM
	case errors.Is(err, journal.ErrClosed):
		return nbd.ESHUTDOWN
	case errors.Is(err, journal.ErrTooBig):
		return nbd.EINVAL
	}
	return nbd.EIO
}

// closeExports brings every log home and gives the files back. All are tried.
func (a *app) closeExports(exports []*export) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
	defer cancel()
	var failed error
	for _, e := range exports {
		err := e.disk.Close(ctx)
		stats := e.disk.Stats()
		log := a.log.With().Str("disk", e.store.place.disk).Int64("not_home_bytes", stats.OverlayBytes).
			Int64("displaced_bytes", stats.DisplacedBytes).Int64("spare_used_bytes", stats.SpareUsedBytes).
			Uint64("in_place_bytes", stats.InPlaceBytes).Uint64("to_spare_bytes", stats.ToSpareBytes).Logger()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			log.Warn().Dur("waited", checkpointTimeout).Msg("disk stopped before its log was home; the next start goes on with it, nothing is lost")
		case errors.Is(err, journal.ErrHostFull):
			log.Warn().Err(err).Msg("disk stopped before its log was home, because the host is full; the next start goes on with it, nothing is lost")
		case err != nil:
			failed = errors.Join(failed, e.store.explain(err))
		case stats.DisplacedBytes > 0:
			log.Info().Msg("disk stopped; what is displaced lies in the journal: run 'jnbd close' before the image is used without jnbd")
		default:
			log.Info().Msg("disk stopped")
		}
		failed = errors.Join(failed, e.store.Close())
	}
	return failed
}
