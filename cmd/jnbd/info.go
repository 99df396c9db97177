package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/jsuper"
)

func (a *app) infoCommand() *cobra.Command {
	var journalFlag string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info DISK",
		Short: "Print what a disk is, how full its log is, and its last barrier",
		Long:  "Info reads superblock and log and writes nothing. It also works while the disk is served.",
		Args:  exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			s, inUse, err := openToLook(args[0], journalFlag)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			var report *journal.Report
			var spare once
			err = look(inUse, func() (err error) {
				if report, err = journal.Inspect(s.parts(), journal.InspectOptions{}); err != nil {
					return err
				}
				spare, err = s.lookOnce(report.Super)
				return err
			})
			if report == nil || report.Super == nil || (err != nil && !inUse) {
				return s.explain(err)
			}
			facts := newDiskInfo(s.place, inUse, report, spare)
			if asJSON {
				return printJSON(a.stdout, facts)
			}
			return printFacts(a.stdout, facts.lines())
		},
	}
	cmd.Flags().StringVar(&journalFlag, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// diskInfo is what info prints. Fields that need a look at the log are null when the log
// of a disk in use moved on too fast to be read.
type diskInfo struct {
	Disk           string       `json:"disk"`
	UUID           string       `json:"uuid"`
	SizeBytes      int64        `json:"size_bytes"`
	Mode           string       `json:"mode"`
	State          string       `json:"state"`
	InUse          bool         `json:"in_use"`
	Journal        string       `json:"journal"`
	LogBytes       int64        `json:"log_bytes"`
	SegmentBytes   int64        `json:"segment_bytes"`
	Epoch          hexID        `json:"epoch"`
	Generation     uint64       `json:"generation"`
	Created        utcTime      `json:"created"`
	Updated        utcTime      `json:"updated"`
	Tail           int64        `json:"tail"`
	DisplacedBytes int64        `json:"displaced_bytes"`
	SpareBytes     int64        `json:"spare_bytes"`
	SpareUsedBytes int64        `json:"spare_used_bytes"`
	Log            *logInfo     `json:"log"`
	LastBarrier    *barrierInfo `json:"last_barrier"`
}

// logInfo is what the scan of the log found.
type logInfo struct {
	UsedBytes    int64  `json:"used_bytes"`
	NotHomeBytes int64  `json:"not_home_bytes"`
	Extents      int    `json:"extents"`
	Frames       int    `json:"frames"`
	Records      int    `json:"records"`
	Head         int64  `json:"head"`
	NextSeq      uint64 `json:"next_seq"`
}

type barrierInfo struct {
	Seq  uint64  `json:"seq"`
	Time utcTime `json:"time"`
}

func newDiskInfo(at place, inUse bool, report *journal.Report, spare once) diskInfo {
	super := report.Super
	info := diskInfo{
		Disk:         at.disk,
		UUID:         jsuper.FormatUUID(super.DiskUUID),
		SizeBytes:    super.DiskBytes,
		Mode:         super.Mode.String(),
		State:        super.State.String(),
		InUse:        inUse,
		Journal:      at.journalName(),
		LogBytes:     super.LogBytes,
		SegmentBytes: super.SegmentBytes,
		Epoch:        super.Epoch,
		Generation:   super.Generation,
		Created:      utcTime(super.CreatedAt),
		Updated:      utcTime(super.UpdatedAt),
		Tail:         super.Tail,

		DisplacedBytes: spare.displacedBytes,
		SpareBytes:     super.SpareBytes,
		SpareUsedBytes: spare.spareUsedBytes,
	}
	if super.BarrierSeq != 0 {
		info.LastBarrier = &barrierInfo{super.BarrierSeq, utcTime(super.BarrierTime)}
	}
	if scan := report.Scan; scan != nil {
		info.Log = &logInfo{
			UsedBytes:    scan.End - super.Tail,
			NotHomeBytes: report.OverlayBytes,
			Extents:      report.OverlayExtents,
			Frames:       scan.Frames,
			Records:      scan.Records,
			Head:         scan.End,
			NextSeq:      scan.NextSeq,
		}
		if scan.Barrier.Seq != 0 {
			info.LastBarrier = &barrierInfo{scan.Barrier.Seq, utcTime(scan.Barrier.Time)}
		}
	}
	return info
}

// lines is the same for people.
func (d diskInfo) lines() []fact {
	state := d.State
	if d.InUse {
		state += ", in use"
	}
	lines := []fact{
		{"disk", d.Disk},
		{"uuid", d.UUID},
		{"size", fmt.Sprintf("%s (%d bytes)", humanSize(d.SizeBytes), d.SizeBytes)},
		{"mode", d.Mode},
		{"state", state},
		{"journal", d.Journal},
	}
	if d.Log == nil {
		lines = append(lines, fact{"log", humanSize(d.LogBytes) + ", moving too fast to be read"})
	} else {
		lines = append(lines,
			fact{"log", fmt.Sprintf("%s of %s in use, %d frames, %d records", humanSize(d.Log.UsedBytes), humanSize(d.LogBytes), d.Log.Frames, d.Log.Records)},
			fact{"not home", fmt.Sprintf("%s in %d extents", humanSize(d.Log.NotHomeBytes), d.Log.Extents)})
	}
	lines = append(lines, displacedFact(d.DisplacedBytes, d.SpareUsedBytes, d.SpareBytes))
	if d.LastBarrier != nil {
		lines = append(lines, fact{"last barrier", fmt.Sprintf("seq %d at %s", d.LastBarrier.Seq, d.LastBarrier.Time)})
	} else {
		lines = append(lines, fact{"last barrier", "none yet"})
	}
	return append(lines, fact{"created", d.Created}, fact{"updated", d.Updated})
}

// displacedFact is the write-once side, for people.
func displacedFact(displaced, used, spare int64) fact {
	text := humanSize(displaced)
	if spare > 0 {
		text = fmt.Sprintf("%s, %s of %s spare in use", text, humanSize(used), humanSize(spare))
	}
	return fact{"displaced", text}
}
