package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/metrics"
)

func (a *app) resizeCommand() *cobra.Command {
	var journalFlag string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resize DISK SIZE",
		Short: "Make a disk larger, also while it is served",
		Long: `Resize makes a disk larger. What is new reads as zeros. An image file is made longer; a
block device must have been made larger before. A disk can't shrink.

While the disk is served, its server does it, asked over the control socket beside the disk:
clients' requests wait for a moment, connections stay. New clients see the new size; those
that are connected can use it, if they have a way to learn of it ('jnbd attach' has).`,
		Args: exactArgs("DISK", "SIZE"),
		RunE: func(_ *cobra.Command, args []string) error {
			bytes, err := parseSize(args[1])
			if err != nil {
				return usagef("%w", err)
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			online, err := a.resize(ctx, args[0], journalFlag, bytes)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, struct {
					Disk      string `json:"disk"`
					SizeBytes int64  `json:"size_bytes"`
					Online    bool   `json:"online"`
				}{args[0], bytes, online})
			}
			text := fmt.Sprintf("%s has %d bytes now", args[0], bytes)
			if online {
				text += ", and its server serves them"
			}
			_, err = fmt.Fprintln(a.stdout, text)
			return err
		},
	}
	cmd.Flags().StringVar(&journalFlag, "journal", "", "where the journal lies: PATH (default: DISK.jnbd)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// resize grows a disk, by itself or by asking its server.
func (a *app) resize(ctx context.Context, diskPath, journalFlag string, bytes int64) (online bool, err error) {
	at, err := locate(diskPath, journalFlag)
	if err != nil {
		return false, err
	}
	s, err := openStore(at, access{})
	if errors.Is(err, disk.ErrLocked) {
		client := metrics.NewClient(metrics.ControlSocket(at.disk))
		defer client.Close()
		asked := client.Resize(ctx, bytes)
		if errors.Is(asked, metrics.ErrNoServer) {
			return false, err // it is another command that has the disk
		}
		return true, asked
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	super, err := s.probe()
	if err != nil {
		return false, err
	}
	if err := s.mayResize(super.DiskBytes, bytes); err != nil {
		return false, err
	}
	engine, err := journal.Open(s.parts(), journal.Options{BootID: hostBootID(), Grow: bytes})
	if err != nil {
		return false, s.explain(err)
	}
	return false, s.explain(engine.Close(ctx))
}

// mayResize refuses a change of size that can't be made, and says what to do instead.
func (s *store) mayResize(from, to int64) error {
	switch {
	case to < from:
		return fmt.Errorf("disk %s has %d bytes and can't shrink to %d: copy it to a smaller one", s.disk, from, to)
	case s.placement == jsuper.Internal:
		return fmt.Errorf("disk %s: %w; run 'jnbd close %s', make the image or device larger ('truncate -s' for an image), and run 'jnbd create %s --journal internal'",
			s.disk, journal.ErrGrowInternal, s.disk, s.disk)
	case s.backing.BlockDevice() && s.backing.Size() < to:
		return fmt.Errorf("disk %s is a block device of %d bytes: make that larger first", s.disk, s.backing.Size())
	}
	return nil
}

// resizeExport grows a disk that is served. Its requests wait from the close of the disk to
// its opening; what the log holds is brought home before, while they still go on.
func (s *service) resizeExport(ctx context.Context, e *export, bytes int64) error {
	if !slices.Contains(s.exports, e) {
		return fmt.Errorf("export %s is not served any more", e.spec.name)
	}
	size, err := e.live.Size()
	if err != nil {
		return err
	}
	if e.spec.readOnly {
		return fmt.Errorf("disk %s is served read-only", e.store.disk)
	}
	if err := e.store.mayResize(size, bytes); err != nil || bytes == size {
		return err
	}
	if err := e.disk.Checkpoint(ctx, nil); err != nil {
		return e.store.explain(err)
	}
	var failed error
	disk, err := e.live.exchange(func() (*journal.Disk, error) {
		short, cancel := context.WithTimeout(ctx, reopenTimeout)
		defer cancel()
		err := e.disk.Close(short)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, journal.ErrHostFull) {
			return nil, err // poisoned: nothing but a restart helps
		}
		budget := splitMemory(s.options.memory.bytes, len(s.exports))
		grown, err := s.app.openEngine(e, budget, bytes)
		if err != nil {
			failed = err
			grown, err = s.app.openEngine(e, budget, 0) // as it was
		}
		return grown, err
	})
	if err != nil {
		return e.store.explain(errors.Join(failed, err))
	}
	e.disk = disk
	s.watch.replace(e)
	if failed != nil {
		return e.store.explain(failed)
	}
	log := s.app.log.With().Str("export", e.spec.name).Int64("size_bytes", bytes).Logger()
	log.Info().Int64("old_size_bytes", size).Msg("disk has grown")
	if e.spec.create.size.given {
		log.Warn().Msg("--size says otherwise: change it, or leave it away, before the server is started again")
	}
	return nil
}
