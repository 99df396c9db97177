package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/wal"
)

func (a *app) checkCommand() *cobra.Command {
	var journalFlag string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check DISK",
		Short: "Verify superblock, log and backing; writes nothing",
		Long: `Check reads both superblock slots, every frame of the log and the samples of the
backing from the medium, past the page cache, and verifies all checksums. It writes
nothing. The disk must not be in use. Exit code 0: all is well. 3: damage.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			at, err := locate(args[0], journalFlag)
			if err != nil {
				return err
			}
			s, err := openStore(at, access{readOnly: true})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			result, failed := s.check()
			if asJSON {
				return errors.Join(failed, printJSON(a.stdout, result))
			}
			return errors.Join(failed, printFacts(a.stdout, result.lines()))
		},
	}
	cmd.Flags().StringVar(&journalFlag, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// checkResult is what check prints.
type checkResult struct {
	Disk         string      `json:"disk"`
	OK           bool        `json:"ok"`
	Error        string      `json:"error,omitempty"`
	State        string      `json:"state,omitempty"`
	Slots        []slotCheck `json:"slots"`
	Frames       int         `json:"frames"`
	Records      int         `json:"records"`
	ReadBytes    int64       `json:"read_bytes"`
	LogUsedBytes int64       `json:"log_used_bytes"`
	NotHomeBytes int64       `json:"not_home_bytes"`

	DisplacedBytes int64 `json:"displaced_bytes"`
	SpareBytes     int64 `json:"spare_bytes"`
	SpareUsedBytes int64 `json:"spare_used_bytes"`
}

// slotCheck is one superblock slot as found.
type slotCheck struct {
	OffsetBytes int64  `json:"offset_bytes"`
	Generation  uint64 `json:"generation"`
	Found       string `json:"found"`
}

// check looks at everything that can be verified. The result is as complete as the
// looking got, also beside an error.
func (s *store) check() (checkResult, error) {
	result := checkResult{Disk: s.disk}
	slots, err := jsuper.ReadSlotsDirect(s.parts().Journal, s.placement)
	if err == nil {
		for i, slot := range slots {
			found := "ok"
			if slot.Err != nil {
				found = slot.Err.Error()
			}
			if torn, damage := judgeLoss(slot, slots[1-i]); torn {
				found += " (normal: a save was torn by a crash, the other slot speaks)"
			} else {
				err = errors.Join(err, damage)
			}
			result.Slots = append(result.Slots, slotCheck{slot.Offset, slot.Generation, found})
		}
	}
	report, inspectErr := journal.Inspect(s.parts(), journal.InspectOptions{VerifyAll: true, Direct: true})
	if err = errors.Join(err, inspectErr); err != nil {
		err = s.explain(err)
		if errors.Is(err, jsuper.ErrCorrupt) || errors.Is(err, wal.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", errDamage, err)
		}
		result.Error = err.Error()
	}
	result.OK = err == nil
	if report != nil && report.Super != nil {
		result.State = report.Super.State.String()
		result.NotHomeBytes = report.OverlayBytes
		result.DisplacedBytes, result.SpareBytes, result.SpareUsedBytes = report.DisplacedBytes, report.SpareBytes, report.SpareUsedBytes
		if scan := report.Scan; scan != nil {
			result.Frames, result.Records, result.ReadBytes = scan.Frames, scan.Records, scan.BytesRead
			result.LogUsedBytes = scan.End - report.Super.Tail
		}
	}
	return result, err
}

// judgeLoss judges a slot that can't be read while the other one, which survives, can. A crash
// may have torn the save that was under way, also the first one after an orderly stop. What no
// crash does is damage: one more, and the journal is lost.
func judgeLoss(slot, survivor jsuper.Slot) (torn bool, damage error) {
	lost := errors.Is(slot.Err, jsuper.ErrCorrupt) || errors.Is(slot.Err, jsuper.ErrNoJournal)
	switch {
	case !lost || survivor.Super == nil:
		return false, nil // fine, or worse than this: Inspect says what
	case survivor.Generation == 1 && errors.Is(slot.Err, jsuper.ErrNoJournal):
		return false, nil // it was saved only once
	case jsuper.MayBeTorn(slot, survivor):
		return true, nil
	}
	return false, fmt.Errorf("superblock slot at %d is lost, the other one still speaks; serving the disk and stopping it writes both anew: %w: %w",
		slot.Offset, jsuper.ErrCorrupt, slot.Err)
}

// lines is the same for people. The error itself is printed by main.
func (r checkResult) lines() []fact {
	lines := []fact{{"disk", r.Disk}}
	for i, slot := range r.Slots {
		found := slot.Found
		if slot.Generation != 0 {
			found = fmt.Sprintf("generation %d, %s", slot.Generation, found)
		}
		lines = append(lines, fact{fmt.Sprintf("superblock slot %d", i), found})
	}
	if r.State != "" {
		lines = append(lines,
			fact{"state", r.State},
			fact{"log", fmt.Sprintf("%d frames, %d records, %s in use, %s read", r.Frames, r.Records, humanSize(r.LogUsedBytes), humanSize(r.ReadBytes))},
			fact{"not home", humanSize(r.NotHomeBytes)},
			fact{"displaced", displacedText(r.DisplacedBytes, r.SpareUsedBytes, r.SpareBytes)})
	}
	verdict := "ok"
	if !r.OK {
		verdict = "NOT OK"
	}
	return append(lines, fact{"result", verdict})
}
