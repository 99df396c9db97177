package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"jnbd/testtool"
)

// scrape asks a server's HTTP address.
func scrape(t *testing.T, address, path string) string {
	t.Helper()
	response, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", path, response.Status, err, body)
	}
	return string(body)
}

// figure is the value of a metric line that begins with series.
func figure(t *testing.T, metrics, series string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("there is no %s in\n%s", series, metrics)
	}
	value, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestMetrics: a server that was asked for metrics tells what its clients did and what that
// cost the host, each disk under its own name.
func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	address := testtool.FreeAddress(t)
	busy, quiet := filepath.Join(dir, "busy.img"), filepath.Join(dir, "quiet.img")
	s := startServer(t, busy, quiet, "--size", "64M", "--journal-size", "64M", "--mode", "ordered",
		"--metrics", address, "-U", filepath.Join(dir, "s"))
	c := mustDial(t, s.uri)
	bulk := bytes.Repeat([]byte("bulk"), 1<<18)
	for i := range 32 {
		if err := c.write(uint64(i%16)<<20, bulk); err != nil { // each block twice
			t.Fatal(err)
		}
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(0, 4096); err != nil {
		t.Fatal(err)
	}
	text := scrape(t, address, "/metrics")
	for series, want := range map[string]float64{
		`jnbd_client_written_bytes_total{export="busy.img"}`:                      32 << 20,
		`jnbd_client_written_bytes_total{export="quiet.img"}`:                     0,
		`jnbd_client_read_bytes_total{export="busy.img"}`:                         4096,
		`jnbd_host_written_bytes_total{export="busy.img",to="in_place"}`:          16 << 20,
		`jnbd_host_written_bytes_total{export="busy.img",to="spare"}`:             16 << 20,
		`jnbd_displaced_blocks{export="busy.img"}`:                                4096,
		`jnbd_displaced_blocks{export="quiet.img"}`:                               0,
		`jnbd_connections{export="busy.img"}`:                                     1,
		`jnbd_request_duration_seconds_count{command="write",export="busy.img"}`:  32,
		`jnbd_request_duration_seconds_count{command="flush",export="busy.img"}`:  1,
		`jnbd_request_duration_seconds_count{command="read",export="busy.img"}`:   1,
		`jnbd_request_duration_seconds_count{command="write",export="quiet.img"}`: 0,
		`jnbd_poisoned{export="busy.img"}`:                                        0,
		`jnbd_log_size_bytes{export="busy.img"}`:                                  figure(t, text, `jnbd_log_size_bytes{export="quiet.img"}`),
	} {
		if got := figure(t, text, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	// P5, as an operator sees it.
	if a := figure(t, text, `jnbd_write_amplification_ratio{export="busy.img"}`); a < 1 || a > 1.02 {
		t.Errorf("write amplification is %v, want 1 to 1.02", a)
	}
	if page := scrape(t, address, "/"); !strings.Contains(page, "<title>jnbd</title>") {
		t.Errorf("at / there is\n%s", page)
	}
	if got := runJnbd(t, 0, "top", "http://"+address, "--interval", "100ms"); !strings.Contains(got, "busy.img  64.0 MiB  ordered") {
		t.Errorf("top shows\n%s", got)
	}
	if got := scrape(t, address, "/healthz"); got != "ok\n" {
		t.Errorf("/healthz answers %q", got)
	}

	// The control socket is the owner's alone, and goes with the server.
	info, err := os.Stat(busy + ".ctl")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v; want mode 0600", info, err)
	}
	s.stop(t)
	for _, path := range []string{busy + ".ctl", quiet + ".ctl"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if !strings.Contains(s.stderr.String(), fmt.Sprintf(`"address":"http://%s"`, address)) {
		t.Errorf("the log does not name the address:\n%s", s.stderr)
	}
}

// TestMetricsAddressTaken: an address that can't be had is told before a client is served, and
// the disk is left as it was.
func TestMetricsAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	diskPath := filepath.Join(t.TempDir(), "d.img")
	_, err = tryStartServer(t, diskPath, "--size", "8M", "--journal-size", "64M", "--metrics", l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("serve: %v", err)
	}
	var facts struct{ State string }
	if err := json.Unmarshal([]byte(runJnbd(t, 0, "info", diskPath, "--json")), &facts); err != nil || facts.State != "clean" {
		t.Errorf("the disk is %q (%v), want clean", facts.State, err)
	}
}
