package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPort is the port that IANA has assigned to NBD.
const DefaultPort = 10809

// SocketMode is the permission of a new unix socket unless said otherwise: who can connect
// can write the disk.
const SocketMode fs.FileMode = 0o600

// maxSocketPath is the longest path that fits a sockaddr_un with its NUL.
const maxSocketPath = 107

// probeTimeout bounds the look whether a unix socket is alive.
const probeTimeout = 5 * time.Second

// Listen listens for NBD clients. Network is "tcp" ("tcp4", "tcp6") with an address of the
// form host:port, or "unix" with a path. A unix socket that nobody listens on any more is
// replaced; one with a live server, or a file of another kind, is refused. The new socket
// has mode 0600, narrowed by the umask, from its first moment on, and is removed when the
// listener is closed.
func Listen(network, address string) (net.Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s %s: %w", network, address, err)
		}
		return l, nil
	case "unix":
		return ListenUnix(address, SocketMode)
	}
	return nil, fmt.Errorf("listen on %q: unknown network, want \"unix\" or \"tcp\"", network)
}

// ListenUnix is Listen for unix sockets, with another mode.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on unix socket %s: the path has %d bytes, at most %d fit; choose a shorter one",
			path, len(path), maxSocketPath)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on unix socket %s: %w", path, err)
	}
	// The mode is set on the socket before it is bound, because Linux creates the file with
	// the socket's own mode: there is no moment at which others could connect.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		if err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), uint32(mode.Perm())) }); err != nil {
			return err
		}
		return chmod
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on unix socket %s: %w", path, err)
	}
	return l, nil
}

// removeStale removes the socket at path if nobody listens on it. It returns nil when
// path is free afterwards.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the path exists and is not a socket; remove it or choose another")
	}
	probe, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		_ = probe.Close()
		return errors.New("another server is listening on it; stop that one or choose another path")
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("it exists, and whether a server listens on it can't be told: %w", err)
}

// URI is the nbd:// or nbd+unix:// address under which clients reach the export on l
// (uri.md of the NBD project).
func URI(l net.Listener, export string) string { return uri("nbd", l, export) }

// SecureURI is URI for clients that use TLS: nbds:// or nbds+unix://.
func SecureURI(l net.Listener, export string) string { return uri("nbds", l, export) }

// uri is an address of a scheme.
func uri(scheme string, l net.Listener, export string) string {
	name := (&url.URL{Path: "/" + export}).EscapedPath()
	addr := l.Addr()
	if addr.Network() == "unix" {
		path := addr.String()
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return scheme + "+unix://" + name + "?socket=" + escapeQuery(path)
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + "://" + addr.String() + name
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + name
}

// escapeQuery escapes a query value the way every URI library reads it back: spaces as
// %20, never as a plus sign. Slashes stay, for the reader's sake.
func escapeQuery(s string) string {
	return strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(s))
}
