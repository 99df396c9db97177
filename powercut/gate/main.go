// Command gate runs the power-cut gate for as long as one likes. scripts/powercut builds it
// and runs it.
//
//  1. Each of -count runs, with seeds from -seed on, is recorded and explored.
//  2. A run that finds something saves its recording and prints how to look at one state.
//  3. With -replay nothing is run: the recording is explored, or with -state one state of it.
//
// Exit code 0: every state kept every promise. 1: one did not, or the gate could not work.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"jnbd/powercut"
)

// config is the command line.
type config struct {
	options powercut.Options
	plan    powercut.Plan
	inside  bool
	count   int
	save    string
	replay  string
	state   string
	image   string
	ignore  string
}

func main() {
	var c config
	flag.StringVar(&c.options.Jnbd, "jnbd", "bin/jnbd", "the jnbd to test")
	flag.BoolVar(&c.inside, "inside", false, "test the engine within this process: no binary, no FUSE, a small journal")
	flag.Uint64Var(&c.options.Seed, "seed", 1, "seed of the first run")
	flag.IntVar(&c.count, "count", 1, "number of runs")
	flag.StringVar(&c.options.Mode, "mode", "data", "mode of the disk: data, ordered or auto")
	flag.BoolVar(&c.options.Beside, "beside", false, "the journal beside the disk, not in its tail")
	flag.IntVar(&c.options.Requests, "requests", 400, "requests of one connection in one round")
	flag.IntVar(&c.options.Lanes, "connections", 4, "connections that write")
	flag.Int64Var(&c.options.SpareBytes, "spare", 0, "room for write-once versions in bytes; 0 is the mode's default")
	flag.IntVar(&c.plan.States, "states", 2000, "states to look at in a run, about; each flush is always among them")
	flag.IntVar(&c.plan.RealEvery, "real", 50, "one in so many states is also looked at by the real binary")
	flag.StringVar(&c.ignore, "ignore-flushes", "none", "none, all or some: a control, which must fail")
	flag.StringVar(&c.save, "save", ".", "directory for the recordings of runs that fail")
	flag.StringVar(&c.replay, "replay", "", "explore this recording instead of making one")
	flag.StringVar(&c.state, "state", "", "with -replay: look at this state alone")
	flag.StringVar(&c.image, "image", "", "with -state: also write the state into this file, a journal beside it into FILE.jnbd")
	flag.Parse()
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

func (c *config) run() (err error) {
	if c.plan.Lie, err = powercut.ParseLie(c.ignore); err != nil {
		return err
	}
	if c.inside {
		c.options.Jnbd = ""
	}
	c.plan.Jnbd = c.options.Jnbd
	if c.replay != "" {
		return c.replayOne()
	}
	failed := 0
	for range c.count {
		good, err := c.runOne()
		if err != nil {
			return err
		}
		if !good {
			failed++
		}
		c.options.Seed++
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d runs found something", failed, c.count)
	}
	return nil
}

// runOne records and explores one run. good is false when it found something.
func (c *config) runOne() (good bool, err error) {
	rec, err := powercut.Record(c.options)
	switch {
	case errors.Is(err, powercut.ErrUnavailable):
		return false, fmt.Errorf("%w; -inside needs nothing of the host", err)
	case err != nil && rec == nil:
		return false, err
	case err != nil:
		fmt.Printf("seed %d: without any power cut: %v\n", c.options.Seed, err)
		return false, c.keep(rec, "")
	}
	c.plan.Seed = c.options.Seed
	report, err := powercut.Explore(rec, c.plan)
	if err != nil {
		return false, err
	}
	fmt.Printf("seed %d: %s\n", c.options.Seed, report)
	if len(report.Failures) == 0 {
		return true, nil
	}
	for _, f := range report.Failures {
		fmt.Println(" ", f)
	}
	return false, c.keep(rec, report.Failures[0].State.String())
}

// keep saves a recording and says what to do with it.
func (c *config) keep(rec *powercut.Recording, state string) error {
	path := filepath.Join(c.save, fmt.Sprintf("powercut-%d.rec", c.options.Seed))
	if err := rec.Save(path); err != nil {
		return err
	}
	fmt.Printf("  saved as %s\n", path)
	if state != "" {
		fmt.Printf("  one state again: scripts/powercut -replay %s -state %s -image state.img\n", path, state)
	}
	return nil
}

// replayOne explores a saved recording.
func (c *config) replayOne() error {
	rec, err := powercut.LoadRecording(c.replay)
	if err != nil {
		return err
	}
	c.plan.Seed = rec.Seed
	if c.state != "" {
		state, err := powercut.ParseState(c.state)
		if err != nil {
			return err
		}
		c.plan.Only = &state
		if c.image != "" {
			if err := powercut.Rebuild(rec, state, c.image); err != nil {
				return err
			}
		}
	}
	report, err := powercut.Explore(rec, c.plan)
	if err != nil {
		return err
	}
	fmt.Println(report)
	for _, f := range report.Failures {
		fmt.Println(" ", f)
	}
	if len(report.Failures) > 0 {
		return fmt.Errorf("%d states broke a promise", len(report.Failures))
	}
	return nil
}
