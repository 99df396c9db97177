package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jnbd/nbd"
)

const (
	// crowd is how many clients are attached and idle, while others work.
	crowd = 1000
	// crowdEach is the most that one of them may cost the server, in bytes of resident memory.
	crowdEach = 32 << 10
	// crowdMemory is --memory of their server, the least that there can be.
	crowdMemory = minMemory
)

// mustDialWhenFree is mustDial for a client that takes the place of one that has just left: the
// server must notice first.
func mustDialWhenFree(t *testing.T, what, uri string) *client {
	t.Helper()
	var c *client
	promptly(t, what, func() (err error) {
		for deadline := time.Now().Add(5 * time.Second); ; {
			if c, err = dial(uri); err == nil || time.Now().After(deadline) {
				return err
			}
		}
	})
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// A thousand clients are attached and idle: another one is served as ever, the memory is what
// the documents say, and who comes when all places are taken is refused, and the log says why.
func TestThousandClients(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "64M", "--journal-size", "64M", "--memory", fmt.Sprint(crowdMemory))
	mustWork(t, "alone", mustDial(t, s.uri), 1)
	before := procKilobytes(t, s.cmd.Process.Pid, "VmRSS")
	var idle []*client
	for len(idle) < crowd {
		idle = append(idle, mustDial(t, s.uri))
	}
	grown := procKilobytes(t, s.cmd.Process.Pid, "VmRSS") - before
	t.Logf("%d idle clients cost %d KiB each", crowd, grown/crowd)
	if grown > crowd*crowdEach>>10 {
		t.Errorf("%d idle clients cost %d KiB, want at most %d KiB each", crowd, grown, crowdEach>>10)
	}
	newcomer := mustDial(t, s.uri)
	mustWork(t, "beside a thousand idle clients", newcomer, 2)

	s.burst(t, idle)
	mustWork(t, "beside clients that do their worst", newcomer, 5)

	for len(idle)+2 < nbd.DefaultMaxConns {
		idle = append(idle, mustDial(t, s.uri))
	}
	if c, err := dial(s.uri); err == nil {
		c.conn.Close()
		t.Errorf("connection %d was accepted, the limit is %d", nbd.DefaultMaxConns+1, nbd.DefaultMaxConns)
	}
	mustWork(t, "when all places are taken", newcomer, 3)
	for _, c := range idle {
		if err := c.disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	mustWork(t, "a new client when the others have left", mustDialWhenFree(t, "attach", s.uri), 4)
	peak := peakMemory(t, s)
	t.Logf("peak of resident memory: %s", humanSize(peak))
	if peak > crowdMemory+memorySlack {
		t.Errorf("resident memory rose to %s, want at most %s", humanSize(peak), humanSize(crowdMemory+memorySlack))
	}
	s.stop(t)
	if !strings.Contains(s.stderr.String(), "1024 connections are open, the limit") {
		t.Errorf("the log does not say why a client was refused:\n%.2000s", s.stderr)
	}
}

// burst lets each client send as many small writes at once as a connection takes in, and then ask
// for more than its socket holds without reading. So each has all the memory that it may have.
func (s *server) burst(t *testing.T, clients []*client) {
	t.Helper()
	const writes, reads = 64, 100
	p := make([]byte, 4096)
	for _, c := range clients {
		for i := range uint64(writes) {
			if err := c.send(nbdCmdWrite, 0, i, i*4096, len(p), p); err != nil {
				t.Fatal(err)
			}
		}
		for range writes {
			if _, errno, _, err := c.receive(); err != nil || errno != 0 {
				t.Fatalf("write: error %d, %v", errno, err)
			}
		}
	}
	for _, c := range clients {
		for i := range uint64(reads) {
			if err := c.send(nbdCmdRead, 0, i, i*8192, 8192, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// --max-connections is obeyed, wherever it is said.
func TestMaxConnections(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	t.Setenv("JNBD_MAX_CONNECTIONS", "2")
	s := startServer(t, diskPath, "--size", "8M", "--journal-size", "64M")
	first := mustDial(t, s.uri)
	mustDial(t, s.uri)
	if c, err := dial(s.uri); err == nil {
		c.conn.Close()
		t.Error("a third connection was accepted")
	}
	if err := first.disconnect(); err != nil {
		t.Fatal(err)
	}
	mustWork(t, "a client in a place that is free again", mustDialWhenFree(t, "attach", s.uri), 1)
	s.stop(t)
}
