package main

import (
	"encoding/hex"
	"os"
	"strings"
)

// hostBootID is the run of the host's kernel: random, and the same for all processes until
// the host starts anew. It is all zero where the kernel does not tell.
func hostBootID() (id [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if n, err := hex.Decode(id[:], []byte(digits)[:min(len(digits), 2*len(id))]); err != nil || n != len(id) {
		return [16]byte{}
	}
	return id
}
