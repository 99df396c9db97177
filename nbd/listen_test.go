package nbd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortDir is a temporary directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestListenUnix(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, path string)
		want   string // part of the error; empty: it succeeds
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"stale socket", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			_ = l.Close()
		}, ""},
		{"live socket", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "another server is listening"},
		{"file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			tt.before(t, path)
			l, err := Listen("unix", path)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("error %v, want one about %q and the path", err, tt.want)
				}
				if _, err := os.Lstat(path); err != nil {
					t.Errorf("what was there is gone: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if perm := info.Mode().Perm(); perm != 0o600 {
				t.Errorf("the socket's mode is %o, want 600", perm)
			}
			_ = l.Close()
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("the socket is still there after Close: %v", err)
			}
		})
	}
}

func TestListenErrors(t *testing.T) {
	for _, tt := range []struct{ network, address, want string }{
		{"udp", "127.0.0.1:0", "unknown network"},
		{"tcp", "no port", "listen on tcp"},
		{"unix", "/nonexistent/s", "/nonexistent/s"},
		{"unix", "/tmp/" + strings.Repeat("x", 120), "at most 107"},
	} {
		if l, err := Listen(tt.network, tt.address); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Listen(%q, %q): %v, %v, want an error about %q", tt.network, tt.address, l, err, tt.want)
		}
	}
}

// addrListener is a listener that only has an address.
type addrListener struct {
	net.Listener
	addr net.Addr
}

func (l addrListener) Addr() net.Addr { return l.addr }

func TestURI(t *testing.T) {
	unixAddr := func(path string) net.Addr { return &net.UnixAddr{Net: "unix", Name: path} }
	tcpAddr := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	for _, tt := range []struct {
		addr   net.Addr
		export string
		want   string
	}{
		{unixAddr("/run/d.sock"), "disk", "nbd+unix:///disk?socket=/run/d.sock"},
		{unixAddr("/run/d.sock"), "", "nbd+unix:///?socket=/run/d.sock"},
		{unixAddr("/a b/c&d?e+f#g"), "my disk?#%", "nbd+unix:///my%20disk%3F%23%25?socket=/a%20b/c%26d%3Fe%2Bf%23g"},
		{tcpAddr("127.0.0.1", 10809), "disk", "nbd://127.0.0.1:10809/disk"},
		{tcpAddr("::1", 99), "", "nbd://[::1]:99/"},
		{tcpAddr("::", 10809), "x", "nbd://localhost:10809/x"},
		{tcpAddr("0.0.0.0", 10809), "ü", "nbd://localhost:10809/%C3%BC"},
	} {
		if got := URI(addrListener{addr: tt.addr}, tt.export); got != tt.want {
			t.Errorf("URI(%v, %q) = %s, want %s", tt.addr, tt.export, got, tt.want)
		}
	}
}
