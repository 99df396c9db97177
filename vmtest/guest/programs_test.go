package main

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// The programs of these tests are the host's /bin/sh.

func TestRun(t *testing.T) {
	var p programs
	for _, c := range []struct {
		name string
		args []string
		out  string
		code int
		err  string // part of the error
	}{
		{name: "prints", args: []string{"sh", "-c", "echo out; echo err >&2"}, out: "out\nerr\n"},
		{name: "fails", args: []string{"sh", "-c", "echo why; exit 7"}, out: "why\n", code: 7},
		{name: "is killed", args: []string{"sh", "-c", "kill -9 $$"}, code: -1},
		{name: "prints too much", args: []string{"sh", "-c", "printf '%9000s' end"}, out: strings.Repeat(" ", step.MaxOutput-3) + "end"},
		{name: "is not there", args: []string{"no-such-program"}, err: "run no-such-program"},
		{name: "has no name", err: "without a name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := p.run(c.args)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil || got.Out != c.out || got.Code != c.code {
				t.Errorf("got %q, exit code %d, %v, want %q, %d", got.Out, got.Code, err, c.out, c.code)
			}
		})
	}
}

func TestStartAndStop(t *testing.T) {
	const script = "trap 'echo bye >&2; exit 3' TERM; sleep 5 >/dev/null 2>&1 & echo ready; wait"
	for _, c := range []struct {
		name   string
		signal unix.Signal
		code   int
		out    string
	}{
		{"in order", unix.SIGTERM, 3, "bye\n"},
		{"by force", unix.SIGKILL, -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p programs
			started, err := p.start([]string{"sh", "-c", script}, false)
			if err != nil || started.Out != "ready\n" {
				t.Fatalf("first line %q, %v", started.Out, err)
			}
			ended, err := p.stop(started.PID, c.signal)
			if err != nil || ended.Code != c.code || ended.Out != c.out {
				t.Errorf("exit code %d, %q, %v, want %d, %q", ended.Code, ended.Out, err, c.code, c.out)
			}
			if _, err := p.stop(started.PID, c.signal); err == nil {
				t.Error("a program is stopped twice")
			}
		})
	}
}

// TestStartNotified: what was notified before the first line is told, and nothing else.
func TestStartNotified(t *testing.T) {
	if notified := os.Getenv("NOTIFY_SOCKET"); notified != "" {
		notify(t, notified)
		return
	}
	for _, c := range []struct {
		name, script, want string
	}{
		{"ready", "\"$0\" -test.run TestStartNotified >/dev/null; echo first; read wait", "READY=1"},
		{"silent", "echo first; read wait", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p programs
			started, err := p.start([]string{"sh", "-c", c.script, os.Args[0]}, true)
			if err != nil || started.Notified != c.want {
				t.Fatalf("notified %q, %v, want %q", started.Notified, err, c.want)
			}
			if _, err := p.stop(started.PID, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		})
	}
}

// notify is what a program does that tells systemd it is ready.
func notify(t *testing.T, socket string) {
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
}

func TestStartThatIsNeverReady(t *testing.T) {
	var p programs
	_, err := p.start([]string{"sh", "-c", "echo no disk >&2; exit 12"}, false)
	if err == nil || !strings.Contains(err.Error(), "no disk") || !strings.Contains(err.Error(), "exit status 12") {
		t.Errorf("error %v, want one with what it said and how it ended", err)
	}
}
