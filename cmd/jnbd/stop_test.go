package main

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStopWithClients: clients that are connected and silent, and one that has not
// negotiated, don't hold up a stop; the disk is clean after it.
func TestStopWithClients(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "8M", "--journal-size", "64M")
	c := mustDial(t, s.uri)
	if err := c.write(4096, []byte("replied")); err != nil {
		t.Fatal(err)
	}
	mustDial(t, s.uri)
	mute, err := net.Dial("unix", diskPath+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()

	began := time.Now()
	s.stop(t)
	if took := time.Since(began); took > drainTimeout/2 {
		t.Errorf("the stop took %s: it waited for clients that want nothing", took)
	}
	var info struct{ State string }
	if err := json.Unmarshal([]byte(runJnbd(t, 0, "info", diskPath, "--json")), &info); err != nil || info.State != "clean" {
		t.Errorf("after the stop the state is %q (%v), want clean", info.State, err)
	}
}

// TestNotifyReady: systemd hears READY when the disk can be used, and STOPPING.
func TestNotifyReady(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	s := startServer(t, filepath.Join(dir, "d.img"), "--size", "8M", "--journal-size", "64M")
	s.stop(t)
	if err := systemd.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for range 2 {
		message := make([]byte, 100)
		n, err := systemd.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, string(message[:n]))
	}
	if got := strings.Join(heard, " "); got != "READY=1 STOPPING=1" {
		t.Errorf("systemd heard %q", got)
	}
}
