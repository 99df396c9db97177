package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/wal"
)

// followEvery is how often --follow looks for new frames.
const followEvery = 200 * time.Millisecond

type logOptions struct {
	journal string
	from    uint64
	follow  bool
	json    bool
}

func (a *app) logCommand() *cobra.Command {
	var options logOptions
	cmd := &cobra.Command{
		Use:   "log DISK",
		Short: "Print the frames of a disk's log",
		Long: `Log prints the frames that are still in the log, oldest first. It writes nothing, and
also works while the disk is served. With --follow it goes on with every frame that is
appended, also over restarts of the server, until Ctrl-C.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) error { return a.printLog(args[0], options) },
	}
	cmd.Flags().StringVar(&options.journal, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	cmd.Flags().Uint64Var(&options.from, "from", 0, "begin at this sequence number")
	cmd.Flags().BoolVarP(&options.follow, "follow", "f", false, "go on with what is appended")
	cmd.Flags().BoolVar(&options.json, "json", false, "print one JSON object per frame")
	return cmd
}

// printLog prints what is in the log, and with --follow what comes.
func (a *app) printLog(diskPath string, options logOptions) (err error) {
	s, inUse, err := openForLog(diskPath, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx, stopSignals := catchSignals()
	defer stopSignals()
	out := bufio.NewWriter(a.stdout)
	reader := journal.NewFrameReader(s.parts(), options.from)
	read := func() error {
		missed, err := reader.Read(func(f *wal.Frame) error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if options.json {
				return printJSON(out, newFrameInfo(f))
			}
			return printFrame(out, f)
		})
		if missed > 0 {
			a.log.Warn().Int64("bytes", missed).Msg("a checkpoint freed frames before they could be printed")
		}
		return errors.Join(err, out.Flush())
	}
	err = look(inUse, read)
	for err == nil && options.follow {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(followEvery):
			err = look(true, read)
		}
	}
	if errors.Is(err, errInterrupted) {
		return err
	}
	return s.explain(err)
}

// openForLog opens a disk to read its log. What follows it takes no lock, so that a server
// can come and go meanwhile.
func openForLog(diskPath string, options logOptions) (s *store, inUse bool, err error) {
	if !options.follow {
		return openToLook(diskPath, options.journal)
	}
	at, err := locate(diskPath, options.journal)
	if err != nil {
		return nil, false, err
	}
	s, err = openStore(at, access{readOnly: true, noLock: true})
	return s, true, err
}

// frameInfo is one line of log --json.
type frameInfo struct {
	Seq         uint64       `json:"seq"`
	Pos         int64        `json:"pos"`
	LengthBytes int64        `json:"length_bytes"`
	Kind        string       `json:"kind"`
	Barrier     bool         `json:"barrier"`
	Time        utcTime      `json:"time"`
	Epoch       hexID        `json:"epoch"`
	Node        uint32       `json:"node"`
	Records     []recordInfo `json:"records"`
}

type recordInfo struct {
	Kind        string `json:"kind"`
	OffsetBytes uint64 `json:"offset_bytes"`
	LengthBytes uint64 `json:"length_bytes"`
	// More: the request goes on in the next record.
	More bool `json:"more,omitempty"`
}

func newFrameInfo(f *wal.Frame) frameInfo {
	info := frameInfo{
		Seq: f.Seq, Pos: f.Pos, LengthBytes: f.Length, Kind: f.Kind.String(),
		Barrier: f.Flags&wal.FlagBarrier != 0, Time: utcTime(f.Time), Epoch: hexID(f.Epoch), Node: f.Node,
		Records: []recordInfo{},
	}
	if f.Kind != wal.KindRecords {
		return info
	}
	for i := range f.Records {
		info.Records = append(info.Records, newRecordInfo(&f.Records[i]))
	}
	return info
}

func newRecordInfo(r *wal.Located) recordInfo {
	length := r.B
	if r.Kind == journal.KindData {
		length = uint64(r.PayloadLen)
	}
	return recordInfo{Kind: journal.KindName(r.Kind), OffsetBytes: r.A, LengthBytes: length, More: r.More}
}

// printFrame prints a frame for people: one line, and one more for each record.
func printFrame(w io.Writer, f *wal.Frame) error {
	info := newFrameInfo(f)
	var line strings.Builder
	fmt.Fprintf(&line, "seq %d  at %#x  %d bytes  %s  %s", info.Seq, info.Pos, info.LengthBytes, info.Kind, info.Time)
	if info.Barrier {
		line.WriteString("  barrier")
	}
	line.WriteByte('\n')
	for _, r := range info.Records {
		fmt.Fprintf(&line, "    %s  offset %d  length %d", r.Kind, r.OffsetBytes, r.LengthBytes)
		if r.More {
			line.WriteString("  more")
		}
		line.WriteByte('\n')
	}
	_, err := io.WriteString(w, line.String())
	return err
}
