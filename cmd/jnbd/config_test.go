package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"jnbd/nbd/certs"
)

func TestParseConfig(t *testing.T) {
	got, err := parseConfig("c.toml", []byte(`
port = 10810 # a comment
tls-allow = ["a", "b,c"]
read-only = true

[export.data]
disk = "/srv/data.img"
[export."with a space"]
mode = 'ordered'
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &config{
		path: "c.toml",
		settings: []setting{
			{"port", 2, []string{"10810"}},
			{"tls-allow", 3, []string{"a", "b,c"}},
			{"read-only", 4, []string{"true"}},
		},
		exports: []exportTable{
			{"data", 6, []setting{{"disk", 7, []string{"/srv/data.img"}}}},
			{"with a space", 8, []setting{{"mode", 9, []string{"ordered"}}}},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}, setting{}, exportTable{})); diff != "" {
		t.Errorf("parsed otherwise (-want +got):\n%s", diff)
	}
}

// Every mistake names its line, and what to do where that can be known.
func TestConfigMistakes(t *testing.T) {
	const export = "[export.a]\ndisk = \"a.img\"\n"
	for _, tt := range []struct{ name, file, want string }{
		{"no TOML", "port = \n", ":1: "},
		{"a key twice", "port = 1\nport = 2\n", ":2: "},
		{"a key of an export twice", export + "mode = \"data\"\nmode = \"auto\"\n", ":4: "},
		{"an export twice", export + export, ":3: "},
		{"unknown key", "\nprot = 1\n" + export, `:2: unknown key "prot"; did you mean "port"?`},
		{"underscore", "\nread_only = true\n" + export, `:2: unknown key "read_only"; did you mean "read-only"?`},
		{"unknown key of an export", export + "moed = \"data\"\n", `:3: unknown key "moed"; did you mean "mode"?`},
		{"a key of the process in an export", export + "port = 1\n", `:3: unknown key "port"`},
		{"a key of an export at the top", "disk = \"a.img\"\n", `:1: unknown key "disk"`},
		{"config in config", "config = \"b\"\n", `:1: unknown key "config"`},
		{"wrong value", "\n\nport = 70000\n" + export, ":3: port: "},
		{"wrong size", "memory = \"1MB\"\n" + export, ":1: memory: "},
		{"a fraction", "port = 1.5\n" + export, ":1: port: want a text, a whole number"},
		{"an array for one", "port = [1, 2]\n" + export, ":1: port: want one value"},
		{"wrong mode", export + "mode = \"some\"\n", ":1: [export.a]: "},
		{"no disk", "\n[export.a]\n", ":2: [export.a] has no disk"},
		{"unknown table", "[exports.a]\n", `:1: unknown table "exports.a"`},
		{"a table in an export", "[export.a.b]\n", `:1: unknown table "export.a.b"`},
		{"an array of tables", "[[export]]\ndisk = \"a\"\n", ":1: "},
		{"no export", "port = 1\n", "DISK is missing"},
		{"unknown default", "default = \"b\"\n" + export, `--default "b"`},
		{"allow without TLS", export + "tls-allow = [\"alice\"]\n", "--tls-allow needs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.toml")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			v := &invocation{base: defaultServeOptions()}
			v.base.config = path
			_, err := v.plan()
			if err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != exitUsage {
				t.Errorf("error %v (exit code %d), want one about %q (exit code %d)", err, exitCode(err), tt.want, exitUsage)
			}
		})
	}
}

// Flag, environment, the export's table, the file's top, default: the first that speaks.
func TestPrecedence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	file := `
commit-interval = "1s"
recover = "barrier"
memory = "200M"
ipaddr = "127.0.0.2"
[export.table]
disk = "a.img"
commit-interval = "2s"
recover = "prefix"
[export.top]
disk = "b.img"
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		flags      []string
		env        map[string]string
		table, top string
		memory     int64
		ip         string
	}{
		{"file", nil, nil, "2s prefix", "1s barrier", 200 << 20, "127.0.0.2"},
		{"environment", nil, map[string]string{"JNBD_COMMIT_INTERVAL": "3s", "JNBD_MEMORY": "300M"}, "3s prefix", "3s barrier", 300 << 20, "127.0.0.2"},
		{"flag", []string{"--commit-interval=4s", "-i", "127.0.0.1"}, map[string]string{"JNBD_COMMIT_INTERVAL": "3s", "JNBD_RECOVER": "barrier"}, "4s barrier", "4s barrier", 200 << 20, "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			options := defaultServeOptions()
			flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
			options.register(flags)
			if err := flags.Parse(append(tt.flags, "--config", path)); err != nil {
				t.Fatal(err)
			}
			v, err := newInvocation(flags, &options, nil)
			if err != nil {
				t.Fatal(err)
			}
			p, err := v.plan()
			if err != nil {
				t.Fatal(err)
			}
			of := func(s exportSpec) string { return fmt.Sprintf("%s %s", s.commitInterval, s.recover) }
			if got := of(p.exports[0]); got != tt.table {
				t.Errorf("the export with settings of its own has %q, want %q", got, tt.table)
			}
			if got := of(p.exports[1]); got != tt.top {
				t.Errorf("the other export has %q, want %q", got, tt.top)
			}
			if p.options.memory.bytes != tt.memory || p.options.listen.ip != tt.ip || !p.options.listen.tcp {
				t.Errorf("memory %d at %q (TCP %v), want %d at %q", p.options.memory.bytes, p.options.listen.ip, p.options.listen.tcp, tt.memory, tt.ip)
			}
		})
	}
}

// manager is systemd's end of NOTIFY_SOCKET.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	return &manager{t, conn}
}

// await waits for a message that begins so.
func (m *manager) await(prefix string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		m.t.Fatal(err)
	}
	message := make([]byte, 200)
	n, err := m.conn.Read(message)
	if err != nil {
		m.t.Fatalf("wait for %q: %v", prefix, err)
	}
	if got := string(message[:n]); !strings.HasPrefix(got, prefix) {
		m.t.Fatalf("systemd was told %q, want %q", got, prefix)
	}
}

// reload has a server read its configuration again, and waits until it has.
func (m *manager) reload(s *server) {
	m.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		m.t.Fatal(err)
	}
	m.await("RELOADING=1\nMONOTONIC_USEC=")
	m.await("READY=1")
}

// A reload adds, removes and changes exports; who uses another one notices nothing.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.toml")
	configure := func(tables string) {
		t.Helper()
		top := "port = 0\nsize = \"8M\"\njournal-size = \"64M\"\n"
		if err := os.WriteFile(path, []byte(top+tables), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	table := func(name string, more ...string) string {
		return fmt.Sprintf("[export.%s]\ndisk = %q\n%s\n", name, filepath.Join(dir, name+".img"), strings.Join(more, "\n"))
	}
	m := newManager(t)
	configure(table("kept") + table("removed") + table("changed"))
	s := startServer(t, "--config", path)
	m.await("READY=1")
	uri := func(name string) string { return strings.TrimSuffix(s.uri, "/kept") + "/" + name }

	clients := map[string]*client{}
	for _, name := range []string{"kept", "removed", "changed"} {
		clients[name] = mustDial(t, uri(name))
		if err := clients[name].write(0, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	mustHold := func(c *client, want string) {
		t.Helper()
		if got, err := c.read(0, len(want)); err != nil || !bytes.Equal(got, []byte(want)) {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}

	configure("prot = 1\n" + table("kept")) // a mistake changes nothing
	m.reload(s)
	for name, c := range clients {
		mustHold(c, name)
	}

	broken := filepath.Join(dir, "broken.img")
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	configure(table("kept") + table("added") + table("changed", `commit-interval = "1s"`) + table("broken"))
	m.reload(s)
	mustHold(clients["kept"], "kept") // on the connection of before
	for _, name := range []string{"removed", "changed"} {
		if _, err := clients[name].read(0, 1); err == nil {
			t.Errorf("the connection to %s is still served", name)
		}
	}
	mustHold(mustDial(t, uri("changed")), "changed")
	mustHold(mustDial(t, uri("added")), "\x00")
	for _, name := range []string{"removed", "broken"} {
		if c, err := dial(uri(name)); err == nil {
			c.conn.Close()
			t.Errorf("export %s is served", name)
		}
	}
	runJnbd(t, 0, "check", filepath.Join(dir, "removed.img")) // and not locked any more
	runJnbd(t, 0, "info", filepath.Join(dir, "added.img"))

	configure(table("added") + table("kept"))
	m.reload(s) // the first one is the default now
	if err := mustDial(t, uri("")).write(0, []byte("default")); err != nil {
		t.Fatal(err)
	}
	mustHold(mustDial(t, uri("added")), "default")
	mustHold(clients["kept"], "kept")
	s.stop(t)
	m.await("STOPPING=1")
	for _, want := range []string{"unknown key", "broken", "export added", "export removed"} {
		if !strings.Contains(s.stderr.String(), want) {
			t.Errorf("the log does not speak of %q:\n%s", want, s.stderr)
		}
	}
}

// A reload reads the certificates again: who comes then needs the new ones, and who is there stays.
// Files that can't be read change nothing.
func TestReloadCertificates(t *testing.T) {
	dir := t.TempDir()
	served, before, after := filepath.Join(dir, "served"), filepath.Join(dir, "before"), filepath.Join(dir, "after")
	for _, set := range []string{before, after} {
		if err := certs.Make(set, nil, "client"); err != nil {
			t.Fatal(err)
		}
	}
	install := func(set string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(served), os.CopyFS(served, os.DirFS(set))); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "c.toml")
	file := fmt.Sprintf("port = 0\ntls-certificates = %q\n[export.d]\ndisk = %q\nsize = \"8M\"\njournal-size = \"64M\"\n", served, filepath.Join(dir, "d.img"))
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	install(before)
	m := newManager(t)
	s := startServer(t, "--config", path)
	m.await("READY=1")
	with := func(set string) string { return s.uri + "?tls-certificates=" + set }
	refused := func(when, set string) {
		t.Helper()
		if c, err := dial(with(set)); err == nil {
			c.conn.Close()
			t.Errorf("%s: a client with other certificates is served", when)
		}
	}
	old := mustDial(t, with(before))
	mustWork(t, "before", old, 1)
	refused("before", after)

	install(after)
	refused("before the reload", after)
	m.reload(s)
	mustWork(t, "new certificates", mustDial(t, with(after)), 2)
	refused("after the reload", before)
	mustWork(t, "on the connection of before", old, 3)

	if err := os.WriteFile(filepath.Join(served, "server-key.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.reload(s)
	mustWork(t, "while the files are broken", mustDial(t, with(after)), 4)
	s.stop(t)
	if !strings.Contains(s.stderr.String(), "the certificates can't be read; the old ones stay in use") {
		t.Errorf("the log does not speak of certificates that can't be read:\n%s", s.stderr)
	}
}

// What is about the process can't change while it runs: a reload says so, names the settings, and
// goes on with the old ones.
func TestReloadNeedsRestart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.toml")
	configure := func(top string) {
		t.Helper()
		file := fmt.Sprintf("%s\n[export.d]\ndisk = %q\nsize = \"8M\"\njournal-size = \"64M\"\n", top, filepath.Join(dir, "d.img"))
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := newManager(t)
	configure("port = 0\nmemory = \"200M\"")
	s := startServer(t, "--config", path)
	m.await("READY=1")
	m.reload(s) // nothing has changed
	configure("port = 0\nmemory = \"300M\"\nmax-connections = 1")
	m.reload(s)
	mustWork(t, "the first of two connections", mustDial(t, s.uri), 1)
	mustWork(t, "the second", mustDial(t, s.uri), 2)
	s.stop(t)
	var said []string
	for line := range strings.Lines(s.stderr.String()) {
		var l struct {
			Level, Message string
			Keys           []string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if l.Message == "these settings have changed, and need a restart" {
			said = append(said, fmt.Sprint(l.Level, l.Keys))
		}
	}
	if want := []string{"warn[max-connections memory]"}; !slices.Equal(said, want) {
		t.Errorf("the log speaks of %q, want %q", said, want)
	}
}

// Any file is read or refused; what is read has keys with values.
func FuzzParseConfig(f *testing.F) {
	for _, file := range []string{
		"", "port = 1\n[export.a]\ndisk = \"b\"\n", "export.a.disk = \"b\"\n", "\"a\\u0062\" = 1\n",
		"[export.\"a.b\"]\n\"di\\u0073k\" = 'x'\n", "a = {b = 1}\n", "a = [1, [2]]\n", "[[a]]\n", "a.b = 1\na.c = 2\n",
		"a = 1979-05-27T07:32:00Z\n", "[export]\na = 1\n", "a = \"\"\"\nb\n\"\"\"\n",
	} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := parseConfig("c.toml", file)
		if err != nil {
			return
		}
		for _, s := range c.settings {
			if s.line < 1 || s.values == nil {
				t.Errorf("setting %+v", s)
			}
		}
		for _, x := range c.exports {
			for _, s := range x.settings {
				if s.line < 1 || s.values == nil {
					t.Errorf("export %q, setting %+v", x.name, s)
				}
			}
		}
	})
}
