// Command bench measures jnbd beside a peer. Every figure is a ratio to the peer, measured
// in turns in one run, because absolute ones say more about the machine.
//
//   - random.go: 4 KiB random writes, depth 32, over a unix socket, against nbdkit's file
//     plugin: writes per second, and CPU time of the server per write.
//   - recovery.go: how long a server takes to be ready again with a full log.
//
// scripts/bench builds it and runs it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// config is the command line.
type config struct {
	jnbd    string
	dir     string
	only    string
	rounds  int
	runtime time.Duration
	disk    string
	log     string
}

func main() {
	var c config
	flag.StringVar(&c.jnbd, "jnbd", "bin/jnbd", "the jnbd to measure")
	flag.StringVar(&c.dir, "dir", "", "directory for disks, on the file system to measure (default: a temporary one)")
	flag.StringVar(&c.only, "only", "", "one part alone: random or recovery")
	flag.IntVar(&c.rounds, "rounds", 5, "rounds of each program, in turns")
	flag.DurationVar(&c.runtime, "runtime", 5*time.Second, "length of one round")
	flag.StringVar(&c.disk, "disk", "1G", "size of the disk")
	flag.StringVar(&c.log, "log", "1G", "size of the full log")
	fillDisk := flag.String("fill", "", "used by bench itself: fill the log of this disk")
	flag.Parse()
	if *fillDisk != "" {
		if err := fill(*fillDisk); err != nil {
			fatal(err)
		}
		return
	}
	if err := c.run(); err != nil {
		fatal(err)
	}
}

func (c *config) run() (err error) {
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "jnbd-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(c.dir)
	}
	if c.jnbd, err = filepath.Abs(c.jnbd); err != nil {
		return err
	}
	if c.only == "" || c.only == "random" {
		if err := c.random(); err != nil {
			return fmt.Errorf("random writes: %w", err)
		}
	}
	if c.only == "" || c.only == "recovery" {
		if err := c.recovery(); err != nil {
			return fmt.Errorf("recovery: %w", err)
		}
	}
	return nil
}

func fatal(err error) {
	fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	os.Exit(1)
}
