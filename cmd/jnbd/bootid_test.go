package main

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// The host's run is what its kernel says it is, and is not the zero that stands for unknown.
func TestHostBootID(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	id := hostBootID()
	if got := hex.EncodeToString(id[:]); got != want || id == [16]byte{} {
		t.Errorf("the host's run is %s, want %s", got, want)
	}
}
