package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	memoryLimit    = 256 << 20 // --memory
	memorySlack    = 64 << 20  // what resident memory may be above it (P11)
	memoryDisk     = 1 << 30
	memoryWritten  = 8 << 30 // in all
	memoryRequest  = 1 << 20
	memoryDepth    = 16
	memoryDeafRead = 256 << 10
)

// TestMemoryBound: one client writes 8 GiB as fast as it can, another asks for data and
// never reads its replies. The server's resident memory stays below --memory + 64 MiB.
func TestMemoryBound(t *testing.T) {
	written := int64(memoryWritten)
	if testing.Short() {
		written /= 16
	}
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", fmt.Sprint(memoryDisk), "--journal-size", "256M", "--memory", fmt.Sprint(memoryLimit))

	deaf := mustDial(t, s.uri)
	deafDone := make(chan struct{})
	go func() { // ends when its connection is closed below
		defer close(deafDone)
		for handle := uint64(1); ; handle++ {
			off := handle * memoryDeafRead % (memoryDisk - memoryDeafRead)
			if deaf.send(nbdCmdRead, 0, handle, off, memoryDeafRead, nil) != nil {
				return
			}
		}
	}()

	writer := mustDial(t, s.uri)
	slots := make(chan struct{}, memoryDepth)
	failed := make(chan error, 1)
	go func() { // ends with the last reply, or the connection
		for range written / memoryRequest {
			_, errno, _, err := writer.receive()
			if err == nil && errno != 0 {
				err = fmt.Errorf("write: error %d", errno)
			}
			if err != nil {
				failed <- err
				return
			}
			<-slots
		}
		failed <- nil
	}()
	payload := bytes.Repeat([]byte("journal!"), memoryRequest/8)
	for off := int64(0); off < written; off += memoryRequest {
		slots <- struct{}{}
		if err := writer.send(nbdCmdWrite, 0, uint64(off), uint64(off%memoryDisk), memoryRequest, payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	peak := peakMemory(t, s)
	t.Logf("peak of resident memory: %s after %s", humanSize(peak), humanSize(written))
	if peak > memoryLimit+memorySlack {
		t.Errorf("resident memory rose to %s, want at most %s", humanSize(peak), humanSize(memoryLimit+memorySlack))
	}
	deaf.conn.Close()
	<-deafDone
	s.kill()
}

// peakMemory is the most the process has had resident, in bytes (proc(5), VmHWM).
func peakMemory(t *testing.T, s *server) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}
