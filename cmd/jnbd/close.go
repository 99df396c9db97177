package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/jsuper"
)

func (a *app) closeCommand() *cobra.Command {
	var journalFlag string
	var acceptBacking, asJSON bool
	cmd := &cobra.Command{
		Use:   "close DISK",
		Short: "Bring everything home; the backing is then a plain raw image",
		Long: `Close brings home all that is in the log. The backing is then byte for byte the raw
image that clients read, and can be used without jnbd. It can be interrupted and run
again. An internal journal is cut off an image file; one beside stays, says that the disk
is closed, and lets 'jnbd serve' resume it, until you remove it.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return a.closeDisk(ctx, args[0], journalFlag, acceptBacking, asJSON)
		},
	}
	cmd.Flags().StringVar(&journalFlag, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	cmd.Flags().BoolVar(&acceptBacking, "accept-backing", false, "close a disk even if something else has written to it since its last use; where the journal holds nothing newer, that is read")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// closeDisk makes the backing a raw image. Each step may be done already, by an earlier
// close that was interrupted.
func (a *app) closeDisk(ctx context.Context, diskPath, journalFlag string, acceptBacking, asJSON bool) (err error) {
	at, err := locate(diskPath, journalFlag)
	if err != nil {
		return err
	}
	s, err := openStore(at, access{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	super, err := s.probe()
	if err != nil {
		return err
	}
	if super.State != jsuper.Closed {
		if err := a.finish(ctx, s, acceptBacking); err != nil {
			return err
		}
	}
	if at.placement == jsuper.Internal && s.backing.Size() > super.DiskBytes && !s.backing.BlockDevice() {
		if err := errors.Join(s.backing.Truncate(super.DiskBytes), s.backing.SyncAll()); err != nil {
			return fmt.Errorf("cut the journal off %s: %w; everything is home, the raw image is its first %d bytes", diskPath, err, super.DiskBytes)
		}
	}
	if asJSON {
		return printJSON(a.stdout, struct {
			Disk         string `json:"disk"`
			State        string `json:"state"`
			SizeBytes    int64  `json:"size_bytes"`
			SafeToRemove bool   `json:"safe_to_remove"`
		}{diskPath, jsuper.Closed.String(), super.DiskBytes, true})
	}
	text := fmt.Sprintf("%s is a plain raw image of %d bytes now; jnbd is safe to remove", diskPath, super.DiskBytes)
	if s.journal != nil {
		text += fmt.Sprintf(", and so is its journal %s", at.journal)
	}
	_, err = fmt.Fprintln(a.stdout, text)
	return err
}

// finish opens the disk, which recovers it if need be, and brings everything home.
func (a *app) finish(ctx context.Context, s *store, acceptBacking bool) error {
	engine, err := journal.Open(s.parts(), journal.Options{AcceptBacking: acceptBacking, BootID: hostBootID()})
	if err != nil {
		return s.explain(err)
	}
	progress := a.newProgress("close " + s.place.disk)
	err = engine.Finish(ctx, progress.step)
	progress.end()
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("close %s: %w; run it again to go on, nothing is lost", s.place.disk, errInterrupted)
	}
	return s.explain(err)
}
