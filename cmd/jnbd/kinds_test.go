package main

import (
	"encoding/json"
	"testing"
)

// diskKind is what the promises must hold for alike: a mode, and where the journal lies.
type diskKind struct {
	mode     string
	internal bool
}

// allDiskKinds are every mode in every placement.
var allDiskKinds = []diskKind{{"data", false}, {"data", true}, {"ordered", false}, {"ordered", true}, {"auto", false}, {"auto", true}}

func (k diskKind) String() string {
	if k.internal {
		return k.mode + "-internal"
	}
	return k.mode + "-beside"
}

// flags are those of create and serve that make such a disk of an image file.
func (k diskKind) flags() []string {
	flags := []string{"--mode", k.mode}
	if k.internal {
		flags = append(flags, "--journal", "internal")
	}
	return flags
}

// writesOnce reports whether bulk goes to homes and spare slots, not into the log.
func (k diskKind) writesOnce() bool { return k.mode != "data" }

// eachKind runs a test on every kind of disk.
func eachKind(t *testing.T, test func(t *testing.T, kind diskKind)) {
	for _, kind := range allDiskKinds {
		t.Run(kind.String(), func(t *testing.T) { test(t, kind) })
	}
}

// displacedBytes is what jnbd info says lies in spare.
func displacedBytes(t *testing.T, diskPath string) int64 {
	t.Helper()
	var info struct {
		DisplacedBytes *int64 `json:"displaced_bytes"`
	}
	if err := json.Unmarshal([]byte(runJnbd(t, 0, "info", diskPath, "--json")), &info); err != nil || info.DisplacedBytes == nil {
		t.Fatalf("jnbd info --json says %+v (%v)", info, err)
	}
	return *info.DisplacedBytes
}
