// Command bench measures jnbd beside peers. Every figure that counts is a ratio, of programs
// that were measured in turns in one run, because absolute ones say more about the machine.
//
//   - workloads.go, speed.go: what is measured, and which ratios are wanted.
//   - peers.go, process.go, nullserver.go: the servers, their floor among them.
//   - floor.go: what that is made of; medium.go: what the medium alone takes for bulk.
//   - fio.go, copy.go, client.go, tally.go: the clients.
//   - fuse.go, slow.go: a slow disk below all of them.
//   - device.go: what reached the disk.
//   - rounds.go: the turns; table.go: what they come to, on a terminal and in docs/benchmarks.md.
//   - trace.go: requests that a file system made once.
//   - sustain.go, svg.go: minutes, second by second, and their picture.
//   - latency.go, trim.go, mkfs.go, recovery.go: what is not a race between servers.
//
// scripts/bench builds it and runs it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// config is the command line.
type config struct {
	jnbd    string
	before  string // another jnbd, or none
	only    *regexp.Regexp
	dir     string
	rounds  int
	runtime time.Duration
	disk    string
	log     string
	lasting string
	trace   string
	sustain time.Duration
	check   bool
	out     string

	diskBytes    int64
	lastingBytes int64
	report       report
}

func main() {
	var c config
	flag.StringVar(&c.jnbd, "jnbd", "bin/jnbd", "the jnbd to measure")
	flag.StringVar(&c.before, "before", "", "another jnbd, which takes part beside each of ours: the build before a change")
	only := flag.String("only", "", "of the servers, only those whose name matches this expression")
	flag.StringVar(&c.dir, "dir", "", "directory for disks, on the file system to measure (default: a temporary one)")
	flag.IntVar(&c.rounds, "rounds", 5, "rounds of each program, in turns")
	flag.DurationVar(&c.runtime, "runtime", 3*time.Second, "length of one measurement that is bounded by time")
	flag.StringVar(&c.disk, "disk", "1G", "size of the disks")
	flag.StringVar(&c.log, "log", "1G", "size of the full log that recovery finds")
	flag.StringVar(&c.lasting, "lasting", "4G", "size of the log that must last while it is measured")
	flag.StringVar(&c.trace, "trace", "scripts/internal/bench/testdata/untar-build.trace.gz", "the trace to play")
	flag.DurationVar(&c.sustain, "sustain", 5*time.Minute, "length of overwrites that never stop")
	flag.BoolVar(&c.check, "check", false, "exit with 1 when a wanted ratio is missed")
	flag.StringVar(&c.out, "o", "", "also write the tables to this file, as Markdown")
	list := flag.Bool("list", false, "list the workloads and end")
	fillDisk := flag.String("fill", "", "used by bench itself: fill the log of this disk")
	nullSocket := flag.String("null", "", "used by bench itself: serve nothing on this socket")
	nullSize := flag.Int64("null-size", 1<<30, "bytes of it")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: scripts/bench [flags] [WORKLOAD…]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	expr, err := regexp.Compile(*only)
	fatalIf(err)
	c.only = expr
	switch {
	case *fillDisk != "":
		fatalIf(fill(*fillDisk))
	case *nullSocket != "":
		fatalIf(serveNull(*nullSocket, *nullSize))
	case *list:
		for _, w := range workloads() {
			fmt.Printf("%-20s %s\n", w.name, w.about)
		}
	default:
		missed, err := c.run(flag.Args())
		fatalIf(err)
		if missed > 0 && c.check {
			fatalIf(fmt.Errorf("%d wanted figures were missed", missed))
		}
	}
}

// run measures the named workloads, or all of them, and counts the wanted figures missed.
func (c *config) run(names []string) (missed int, err error) {
	chosen, err := choose(names)
	if err != nil {
		return 0, err
	}
	if c.diskBytes, err = parseSize(c.disk); err != nil {
		return 0, err
	}
	if c.lastingBytes, err = parseSize(c.lasting); err != nil {
		return 0, err
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "jnbd-bench-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(c.dir)
	}
	if c.jnbd, err = filepath.Abs(c.jnbd); err != nil {
		return 0, err
	}
	if c.before != "" {
		if c.before, err = filepath.Abs(c.before); err != nil {
			return 0, err
		}
	}
	c.report.begin(c)
	for _, w := range chosen {
		w.race = w.race.among(c)
		if err := w.run(c, &w); err != nil {
			return 0, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	if c.out != "" {
		err = c.report.save(c.out)
	}
	return c.report.missed, err
}

// choose finds the workloads of these names; none means all.
func choose(names []string) ([]workload, error) {
	all := workloads()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []workload
	for _, name := range names {
		found := false
		for _, w := range all {
			if w.name == name || strings.HasPrefix(w.name, name+"-") {
				chosen, found = append(chosen, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no workload is called %q; scripts/bench -list names them", name)
		}
	}
	return chosen, nil
}

// parseSize reads a number of bytes with an optional K, M, G or T.
func parseSize(s string) (int64, error) {
	var n int64
	var unit string
	if k, _ := fmt.Sscanf(s, "%d%s", &n, &unit); k == 0 || n <= 0 || len(unit) > 1 || !strings.Contains("KMGT", unit) {
		return 0, fmt.Errorf("size %q: want a number with K, M, G or T", s)
	}
	if unit != "" {
		n <<= 10 * (1 + strings.Index("KMGT", unit))
	}
	return n, nil
}

func fatalIf(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}
