package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestLogFollow: log --follow prints each write once and soon, while the server works, is
// killed and started again; and Ctrl-C ends it.
func TestLogFollow(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "8M", "--journal-size", "64M")
	follower := newServer(t, "log", diskPath, "--follow", "--json")
	stdout, err := follower.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follower.start(t); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	// await reads up to the frame with a write at offset; no frame comes twice.
	lastSeq := uint64(0)
	await := func(offset uint64) {
		t.Helper()
		for lines.Scan() {
			var f frameInfoRead
			if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
				t.Fatalf("%v in %s", err, lines.Bytes())
			}
			if f.Seq <= lastSeq {
				t.Errorf("frame %d came after %d", f.Seq, lastSeq)
			}
			lastSeq = f.Seq
			for _, r := range f.Records {
				if r.Kind == "DATA" && r.OffsetBytes == offset {
					return
				}
			}
		}
		t.Fatalf("the write at %d was not printed\n%s", offset, follower.stderr)
	}
	for offset := uint64(4096); offset < 10*4096; offset += 4096 {
		if offset == 5*4096 {
			s.kill()
			s = startServer(t, diskPath)
		}
		if err := mustDial(t, s.uri).write(offset, []byte("followed")); err != nil {
			t.Fatal(err)
		}
		await(offset)
	}
	s.stop(t)
	if err := follower.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what the stop appended
	}
	follower.cmd.Wait() // its code is looked at
	if code := follower.cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("after Ctrl-C it exits with %d, want %d\n%s", code, exitInterrupted, follower.stderr)
	}
}

// frameInfoRead is frameInfo as a reader of the JSON sees it.
type frameInfoRead struct {
	Seq     uint64 `json:"seq"`
	Records []struct {
		Kind        string `json:"kind"`
		OffsetBytes uint64 `json:"offset_bytes"`
	} `json:"records"`
}
