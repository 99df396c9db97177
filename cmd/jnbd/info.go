package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/metrics"
	"jnbd/ordered"
)

func (a *app) infoCommand() *cobra.Command {
	var journalFlag string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info DISK|URI",
		Short: "Print what a disk is, how full its log is, and what its server does",
		Long: `Info reads superblock and log of a disk and writes nothing. While the disk is served, it asks
the server, over the control socket beside the disk, and also tells what its clients have
written, and what that has cost.

Of a URI (nbd://, nbd+unix:// and with TLS nbds://) it tells what a client sees, of any server.`,
		Args: exactArgs("DISK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			facts, err := lookAt(cmd.Context(), args[0], journalFlag)
			if err != nil {
				return err
			}
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

// lookAt finds out about a disk or URI.
func lookAt(ctx context.Context, target, journalFlag string) (interface{ lines() []fact }, error) {
	if isURI(target) {
		return askServer(ctx, target)
	}
	return diskFacts(ctx, target, journalFlag)
}

// diskFacts is what there is to say of a disk.
func diskFacts(ctx context.Context, diskPath, journalFlag string) (_ *diskInfo, err error) {
	s, inUse, err := openToLook(diskPath, journalFlag)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if super, err := s.probe(); err == nil { // else the look below says what is wrong
		if server, live, err := askControl(ctx, s.place, super); err != nil {
			return nil, err
		} else if live != nil {
			return newServedInfo(s.place, super, server, live), nil
		}
	}
	var report *journal.Report
	err = look(inUse, func() (err error) {
		report, err = journal.Inspect(s.parts(), journal.InspectOptions{})
		return err
	})
	if report == nil || report.Super == nil || (err != nil && !inUse) {
		return nil, s.explain(err)
	}
	return newDiskInfo(s.place, inUse, report), nil
}

// diskInfo is what info prints. Fields that need a look at the log are null when the log
// of a disk in use moved on too fast to be read.
type diskInfo struct {
	Disk            string       `json:"disk"`
	UUID            string       `json:"uuid"`
	SizeBytes       int64        `json:"size_bytes"`
	Mode            string       `json:"mode"`
	State           string       `json:"state"`
	InUse           bool         `json:"in_use"`
	Journal         string       `json:"journal"`
	LogBytes        int64        `json:"log_bytes"`
	SegmentBytes    int64        `json:"segment_bytes"`
	Epoch           string       `json:"epoch"`
	Generation      uint64       `json:"generation"`
	Incarnation     string       `json:"incarnation"` // 16 hex digits, all 0 before the first use
	Created         utcTime      `json:"created"`
	Updated         utcTime      `json:"updated"`
	Tail            int64        `json:"tail"`
	DisplacedBytes  int64        `json:"displaced_bytes"`
	SpareBytes      int64        `json:"spare_bytes"`
	SpareUsedBytes  int64        `json:"spare_used_bytes"`
	SpareKept       bool         `json:"spare_preallocated"`
	Log             *logInfo     `json:"log"`
	LastBarrier     *barrierInfo `json:"last_barrier"`
	DisplacedBlocks int64        `json:"displaced_blocks"`
	// Null unless a server answers for the disk.
	Server *serverInfo   `json:"server"`
	Live   *metrics.Disk `json:"live"`
}

// serverInfo is the process that serves a disk.
type serverInfo struct {
	PID     int     `json:"pid"`
	Version string  `json:"version"`
	Started utcTime `json:"started"`
}

// logInfo is how the log stands. A server does not count what is in its log: frames and
// records are null then.
type logInfo struct {
	UsedBytes    int64  `json:"used_bytes"`
	NotHomeBytes int64  `json:"not_home_bytes"`
	Extents      int    `json:"extents"`
	Frames       *int   `json:"frames"`
	Records      *int   `json:"records"`
	Head         int64  `json:"head"`
	NextSeq      uint64 `json:"next_seq"`
}

type barrierInfo struct {
	Seq  uint64  `json:"seq"`
	Time utcTime `json:"time"`
}

// superInfo is what the superblock alone says.
func superInfo(at place, super *jsuper.Superblock) *diskInfo {
	info := &diskInfo{
		Disk:         at.disk,
		UUID:         jsuper.FormatUUID(super.DiskUUID),
		SizeBytes:    super.DiskBytes,
		Mode:         super.Mode.String(),
		State:        super.State.String(),
		Journal:      at.journalName(),
		LogBytes:     super.LogBytes,
		SegmentBytes: super.SegmentBytes,
		Epoch:        hexID(super.Epoch).String(),
		Generation:   super.Generation,
		Incarnation:  fmt.Sprintf("%016x", super.Incarnation),
		Created:      utcTime(super.CreatedAt),
		Updated:      utcTime(super.UpdatedAt),
		Tail:         super.Tail,
		SpareBytes:   super.SpareBytes,
		SpareKept:    super.Compat&jsuper.FeatureKeepSpare != 0,
	}
	if super.BarrierSeq != 0 {
		info.LastBarrier = &barrierInfo{super.BarrierSeq, utcTime(super.BarrierTime)}
	}
	return info
}

// newDiskInfo is what a look from outside finds.
func newDiskInfo(at place, inUse bool, report *journal.Report) *diskInfo {
	super := report.Super
	info := superInfo(at, super)
	info.InUse = inUse
	info.DisplacedBytes, info.SpareUsedBytes = report.DisplacedBytes, report.SpareUsedBytes
	info.DisplacedBlocks = report.DisplacedBytes / ordered.BlockBytes
	if scan := report.Scan; scan != nil {
		info.Log = &logInfo{
			UsedBytes:    scan.End - super.Tail,
			NotHomeBytes: report.OverlayBytes,
			Extents:      report.OverlayExtents,
			Frames:       &scan.Frames,
			Records:      &scan.Records,
			Head:         scan.End,
			NextSeq:      scan.NextSeq,
		}
		if scan.Barrier.Seq != 0 {
			info.LastBarrier = &barrierInfo{scan.Barrier.Seq, utcTime(scan.Barrier.Time)}
		}
	}
	return info
}

// newServedInfo is what the disk's server says.
func newServedInfo(at place, super *jsuper.Superblock, server *serverInfo, live *metrics.Disk) *diskInfo {
	info := superInfo(at, super)
	info.InUse, info.Server, info.Live = true, server, live
	info.Mode, info.Epoch, info.Tail = live.Mode, live.Log.Epoch, live.Log.Tail
	info.DisplacedBlocks, info.DisplacedBytes = live.Spare.DisplacedBlocks, live.Spare.DisplacedBytes
	info.SpareUsedBytes = live.Spare.UsedBytes
	info.Log = &logInfo{
		UsedBytes:    live.Log.UsedBytes,
		NotHomeBytes: live.Log.NotHomeBytes,
		Extents:      live.Log.NotHomeExtents,
		Head:         live.Log.Head,
		NextSeq:      live.Log.NextSeq,
	}
	if live.Log.BarrierTime != nil {
		info.LastBarrier = &barrierInfo{live.Log.BarrierSeq, utcTime(*live.Log.BarrierTime)}
	}
	return info
}

// lines is the same for people.
func (d *diskInfo) lines() []fact {
	state := d.State
	if d.InUse {
		state += ", in use"
	}
	if d.Server != nil {
		state += fmt.Sprintf(" by process %d since %s", d.Server.PID, d.Server.Started)
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
		text := fmt.Sprintf("%s of %s in use", humanSize(d.Log.UsedBytes), humanSize(d.LogBytes))
		if d.Log.Frames != nil && d.Log.Records != nil {
			text += fmt.Sprintf(", %d frames, %d records", *d.Log.Frames, *d.Log.Records)
		}
		lines = append(lines,
			fact{"log", text},
			fact{"not home", fmt.Sprintf("%s in %d extents", humanSize(d.Log.NotHomeBytes), d.Log.Extents)})
	}
	displaced := displacedText(d.DisplacedBytes, d.SpareUsedBytes, d.SpareBytes)
	if d.SpareKept {
		displaced += ", preallocated"
	}
	lines = append(lines, fact{"displaced", displaced})
	if d.LastBarrier != nil {
		lines = append(lines, fact{"last barrier", fmt.Sprintf("seq %d at %s", d.LastBarrier.Seq, d.LastBarrier.Time)})
	} else {
		lines = append(lines, fact{"last barrier", "none yet"})
	}
	lines = append(lines, fact{"created", d.Created}, fact{"updated", d.Updated})
	if d.Live != nil {
		lines = append(lines, liveFacts(d.Live)...)
	}
	return lines
}

// displacedText is the write-once side, for people.
func displacedText(displaced, used, spare int64) string {
	text := fmt.Sprintf("%s in %d blocks", humanSize(displaced), displaced/ordered.BlockBytes)
	if spare > 0 {
		text += fmt.Sprintf(", %s of %s spare in use", humanSize(used), humanSize(spare))
	}
	return text
}
