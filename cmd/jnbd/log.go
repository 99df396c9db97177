package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"jnbd/journal"
	"jnbd/wal"
)

func (a *app) logCommand() *cobra.Command {
	var journalFlag string
	var from uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "log DISK",
		Short: "Print the frames of a disk's log",
		Long: `Log prints the frames that are still in the log, oldest first. It writes nothing, and
also works while the disk is served.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			s, inUse, err := openToLook(args[0], journalFlag)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			out := bufio.NewWriter(a.stdout)
			printed := uint64(0) // highest sequence number printed: a second look goes on behind it
			err = look(inUse, func() error {
				return journal.Frames(s.parts(), max(from, printed+1), func(f *wal.Frame) error {
					printed = f.Seq
					if asJSON {
						return printJSON(out, newFrameInfo(f))
					}
					return printFrame(out, f)
				})
			})
			if err != nil {
				err = s.explain(err)
			}
			return errors.Join(err, out.Flush())
		},
	}
	cmd.Flags().StringVar(&journalFlag, "journal", "", "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin at this sequence number")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per frame")
	return cmd
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
