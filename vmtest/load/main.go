// Command load is what the guest does to a disk whose power is going to fail. It performs one
// of package workload's workloads and marks what was acknowledged:
//
//	load -marks DEVICE begin                   the disk is made: cuts count from here on
//	load raw   -marks DEVICE -device /dev/nbd0 numbered requests to the block device
//	load files -marks DEVICE -dir DIR          small files, each operation made durable
//	load files -marks DEVICE -dir DIR -points 20 -device /dev/nbd0
//	                                           durable at every 20th operation only
//	load rows  -marks DEVICE -dir DIR          SQLite transactions
//
// Marks are written with O_DIRECT from aligned memory, so that each is on the recorded disk
// when its write returns, and no flush is needed for it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"jnbd/vmtest/workload"
)

// config is the command line.
type config struct {
	marks  string
	device string
	dir    string
	seed   uint64
	count  int
	points int
	bulk   bool
	lanes  int
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var c config
	flag.StringVar(&c.marks, "marks", "", "block device for the marks")
	flag.StringVar(&c.device, "device", "", "the disk itself")
	flag.StringVar(&c.dir, "dir", "", "directory of the file system on it")
	flag.Uint64Var(&c.seed, "seed", 1, "seed of the workload")
	flag.IntVar(&c.count, "count", 100, "operations, transactions, or requests of a lane")
	flag.IntVar(&c.points, "points", 0, "make durable every so many operations, with sync and a flush of the device; 0: each by itself")
	flag.BoolVar(&c.bulk, "bulk", false, "write bulk data that nobody syncs beside the files")
	flag.IntVar(&c.lanes, "lanes", 3, "threads of the raw writer")
	if len(os.Args) < 2 {
		return errors.New("no workload; see the doc comment")
	}
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		return err
	}
	m, err := openMarker(c.marks)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	switch what := os.Args[1]; what {
	case "raw":
		err = c.raw(m)
	case "files":
		err = c.files(m)
	case "rows":
		err = c.rows(m)
	default:
		err = fmt.Errorf("no workload %q", what)
	}
	if err != nil {
		return err
	}
	return m.mark(workload.Mark{Kind: workload.End})
}
