package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"jnbd/nbd/nbdclient"
)

// A sparse disk of 1 TiB costs what is in it (trap 7): trims and zeroings of all of it are a
// few changes of a map, in every mode.

const (
	hugeDisk   = int64(1) << 40
	hugeRounds = 7
	hugeTrim   = 100 * time.Millisecond // for all of the disk, at the median
)

func TestHugeDisk(t *testing.T) {
	eachKind(t, func(t *testing.T, kind diskKind) {
		diskPath := filepath.Join(t.TempDir(), "d.img")
		s := startServer(t, append(kind.flags(), diskPath, "--size", formatSize(hugeDisk), "--journal-size", "64M")...)
		c := connect(t, s.uri, nbdclient.Options{Contexts: []string{allocation}})
		random := rand.New(rand.NewPCG(4, 4))
		for _, clear := range []struct {
			name string
			do   func() error
		}{
			{"trim", func() error { return c.Trim(0, hugeDisk, 0) }},
			{"fast zero", func() error { return c.Zero(0, hugeDisk, nbdclient.FastZero) }},
			{"trim, durable", func() error { return errors.Join(c.Trim(0, hugeDisk, 0), c.Flush()) }},
		} {
			var took []time.Duration
			for range hugeRounds {
				places := scatter(t, c, random)
				began := time.Now()
				if err := clear.do(); err != nil {
					t.Fatalf("%s: %v", clear.name, err)
				}
				took = append(took, time.Since(began))
				mustBeEmpty(t, c, places)
			}
			slices.Sort(took)
			median := took[hugeRounds/2]
			t.Logf("%s of 1 TiB: %s to %s, median %s", clear.name, took[0], took[hugeRounds-1], median)
			if median > hugeTrim {
				t.Errorf("%s of 1 TiB takes %s at the median, want at most %s", clear.name, median, hugeTrim)
			}
		}

		// It is so after a crash as well. What was zeroed to be kept is not a hole.
		places := scatter(t, c, random)
		kept := places[0] &^ (1<<20 - 1)
		err := errors.Join(c.Trim(0, hugeDisk, 0), c.Zero(kept, 1<<20, nbdclient.NoHole))
		if err != nil {
			t.Fatal(err)
		}
		s.kill()
		s = startServer(t, diskPath)
		c = connect(t, s.uri, nbdclient.Options{Contexts: []string{allocation}})
		mustBeZero(t, c, places)
		if got := status(t, c, kept-1<<20, 3<<20); !slices.Equal(got, []nbdclient.Extent{{Length: 1 << 20, Flags: hole}, {Length: 1 << 20, Flags: zero}, {Length: 1 << 20, Flags: hole}}) {
			t.Errorf("around zeros without a hole: %v", got)
		}
		s.stop(t)
	})
}

// The context base:allocation, and its flags.
const (
	allocation = "base:allocation"
	zero       = 2
	hole       = 1 | zero
)

// scatter writes small and bulk all over the disk, and returns where.
func scatter(t *testing.T, c *nbdclient.Client, random *rand.Rand) (places []int64) {
	t.Helper()
	p := bytes.Repeat([]byte{0xa5}, 256<<10)
	for i := range 40 {
		off := (random.Int64N(hugeDisk-8<<20) + 4<<20) &^ 511
		if _, err := c.WriteAt(p[:len(p)>>(i%8)], off); err != nil {
			t.Fatal(err)
		}
		places = append(places, off)
	}
	return places
}

// mustBeEmpty wants the disk to be one hole that reads as zeros.
func mustBeEmpty(t *testing.T, c *nbdclient.Client, places []int64) {
	t.Helper()
	mustBeZero(t, c, places)
	const most = 2 << 30
	for off := int64(0); off < hugeDisk; off += most {
		if got := status(t, c, off, most); !slices.Equal(got, []nbdclient.Extent{{Length: most, Flags: hole}}) {
			t.Fatalf("block status of %d bytes at %d is %v, want one hole", most, off, got)
		}
	}
}

// mustBeZero wants zeros where something was written.
func mustBeZero(t *testing.T, c *nbdclient.Client, places []int64) {
	t.Helper()
	zeros, p := make([]byte, 512<<10), make([]byte, 512<<10)
	for _, off := range places {
		if _, err := c.ReadAt(p, off-128<<10); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(p, zeros) {
			t.Fatalf("what was trimmed at %d: %v", off, firstDifference(uint64(off)-128<<10, p, zeros))
		}
	}
}

// status is what the disk has allocated of [off, off+n).
func status(t *testing.T, c *nbdclient.Client, off int64, n uint32) []nbdclient.Extent {
	t.Helper()
	all, err := c.Status(off, n, 0)
	if err != nil {
		t.Fatal(err)
	}
	return all[allocation]
}
