package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
)

// Making a disk:
//
//  1. Decide from the flags and from what exists where everything will lie (planCreate).
//     Nothing is written until every check has passed.
//  2. Make the backing if it isn't there, and lock it.
//  3. Make the journal file under a name of its own (createjournal.go), or make room in
//     the backing's tail.
//  4. journal.Format writes the log's zeros and, last, the superblock.
//  5. The journal file gets its name, and the link to it is made: from then on the disk has
//     a journal.
//  6. When any step fails, or the user interrupts, everything made is taken away again in
//     reverse order. The homes of an existing image are never written at all.
//
// A create that was killed leaves at most an image of zeros and an unfinished journal under
// its other name. The next create with the same flags finishes the one and replaces the
// other.

// defaultJournalBytes is the journal's size unless --journal-size is given.
const defaultJournalBytes = 256 << 20

// sizeLine is what image files and journals are rounded up to, so that every frame and
// slot lies on lines of the medium.
const sizeLine = 4096

// createOptions are create's flags; serve --size uses them too.
type createOptions struct {
	size        sizeFlag
	journalSize sizeFlag
	spare       string
	preallocate bool
	mode        string
	journal     string

	acceptBacking bool
}

func (a *app) createCommand() *cobra.Command {
	var options createOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create DISK",
		Short: "Give an image or device a journal, or make a new disk",
		Long: `Create gives DISK a journal. An existing image or device is adopted as it is,
without copying. With --size, an image that does not exist is made (sparse).

The journal lies beside the disk as DISK.jnbd. --journal PATH puts it into another file
or onto a block device; DISK.jnbd is then a link to it. --journal internal puts it into
the tail of the disk itself: an image file grows for it, a block device must have room.
Block devices get an internal journal unless --journal says otherwise.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			made, err := a.create(ctx, args[0], options)
			if err != nil {
				return err
			}
			return a.printCreated(made, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.Var(&options.size, "size", "size of the disk; makes the image if it does not exist")
	flags.Var(&options.journalSize, "journal-size", "size of the journal, at least "+formatSize(journal.MinJournalBytes)+" (default "+formatSize(defaultJournalBytes)+")")
	flags.StringVar(&options.journal, "journal", "", "where the journal lies: PATH or internal (default DISK.jnbd; on a block device internal)")
	flags.StringVar(&options.mode, "mode", "", "how writes reach their place: data, ordered or auto (default "+defaultMode.String()+")")
	flags.StringVar(&options.spare, "spare", "", "room for write-once, a share like 10% or a size; for the modes auto (default 100%) and ordered (default an eighth more); 25% on a block device that holds the journal, too")
	flags.BoolVar(&options.preallocate, "preallocate", false, "write the whole spare area now and keep its space, for bulk that overwrites a disk for the first time; takes the time and the space of --spare")
	flags.BoolVar(&options.acceptBacking, "accept-backing", false, "adopt a disk even if it may have a journal already: before it was resized, or by another name (hard link)")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// created is what create made.
type created struct {
	place
	super *jsuper.Superblock
}

func (a *app) printCreated(made created, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, struct {
			Disk         string `json:"disk"`
			UUID         string `json:"uuid"`
			Mode         string `json:"mode"`
			SizeBytes    int64  `json:"size_bytes"`
			Journal      string `json:"journal"`
			JournalBytes int64  `json:"log_bytes"`
		}{made.disk, jsuper.FormatUUID(made.super.DiskUUID), made.super.Mode.String(), made.super.DiskBytes, made.journalName(), made.super.LogBytes})
	}
	_, err := fmt.Fprintf(a.stdout, "%s: %s disk, mode %s, journal %s (log of %s); serve it with 'jnbd serve %s'\n",
		made.disk, humanSize(made.super.DiskBytes), made.super.Mode, made.journalName(), humanSize(made.super.LogBytes), made.disk)
	return err
}

// create makes a disk, whole or not at all.
func (a *app) create(ctx context.Context, diskPath string, options createOptions) (made created, err error) {
	plan, err := planCreate(diskPath, options)
	if err != nil {
		return created{}, err
	}

	var undo undoList
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()
	opened, err := plan.open(&undo)
	if err != nil {
		return created{}, err
	}
	undo.add(opened.Close)
	progress := a.newProgress("look whether the tail of " + plan.disk + " is free")
	diskBytes, err := plan.fit(opened, &undo, func(done, total int64) error {
		progress.step(done, total)
		return ctx.Err()
	})
	progress.end()
	if ctx.Err() != nil {
		return created{}, fmt.Errorf("create %s: %w; nothing is left behind", diskPath, errInterrupted)
	}
	if err != nil {
		return created{}, err
	}

	progress = a.newProgress("write journal")
	format := plan.format
	format.DiskBytes, format.Progress = diskBytes, progress.step
	super, err := journal.Format(interruptible(ctx, opened), format)
	progress.end()
	if ctx.Err() != nil {
		return created{}, fmt.Errorf("create %s: %w; nothing is left behind", diskPath, errInterrupted)
	}
	if err != nil {
		return created{}, fmt.Errorf("create %s: %w", diskPath, err)
	}
	if err := plan.publish(&undo); err != nil {
		return created{}, fmt.Errorf("create %s: %w", diskPath, err)
	}
	undo = nil // it is made, whatever becomes of the descriptors
	return created{plan.place, super}, opened.Close()
}

// open makes what is to be made, and opens and locks all of it.
func (plan *createPlan) open(undo *undoList) (_ *store, err error) {
	size := int64(0)
	if plan.makeDisk {
		size = plan.diskBytes
	}
	backing, err := disk.OpenFile(plan.disk, disk.FileOptions{Create: plan.makeDisk, Size: size})
	if err != nil {
		return nil, err
	}
	s := &store{place: plan.place, backing: backing}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if plan.makeDisk {
		undo.add(func() error { return os.Remove(plan.disk) })
	}
	if plan.diskBytes > 0 && backing.Size() == 0 {
		// A create that was killed between the file and its size.
		undo.add(func() error { return os.Truncate(plan.disk, 0) })
		if err := errors.Join(backing.Truncate(plan.diskBytes), backing.SyncAll()); err != nil {
			return nil, fmt.Errorf("make disk %s: %w", plan.disk, err)
		}
	}
	if err := plan.settle(backing.Size()); err != nil {
		return nil, err
	}
	if plan.placement == jsuper.Internal {
		return s, nil
	}
	if s.journal, err = plan.openJournal(undo); err != nil {
		return nil, fmt.Errorf("create journal of %s: %w", plan.disk, err)
	}
	return s, nil
}
