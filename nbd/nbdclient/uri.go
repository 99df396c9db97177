package nbdclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"jnbd/nbd"
)

// URI is the address of an export (uri.md of the NBD project):
//
//	nbd://HOST[:PORT]/EXPORT            TCP, port 10809 unless said otherwise
//	nbd+unix:///EXPORT?socket=PATH      a unix socket
//	nbds://…  nbds+unix://…             the same, with TLS
type URI struct {
	Network string     // "tcp" or "unix", for net.Dial
	Address string     // host:port or a path, likewise
	Host    string     // without the port; empty for a unix socket
	Export  string     // empty: the server's default export
	TLS     bool       // nbds
	User    string     // for TLS with shared keys; empty if none was named
	Query   url.Values // all of the query; socket among it
}

// ParseURI reads a URI. What its query says beyond the socket is for the caller.
func ParseURI(text string) (URI, error) {
	uri, err := parseURI(text)
	if err != nil {
		return URI{}, fmt.Errorf("nbd uri %q: %w", text, err)
	}
	return uri, nil
}

func parseURI(text string) (URI, error) {
	u, err := url.Parse(text)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // its text would name the URI once more
		}
		return URI{}, err
	}
	uri := URI{Export: strings.TrimPrefix(u.Path, "/"), User: u.User.Username()}
	if uri.Query, err = url.ParseQuery(u.RawQuery); err != nil {
		return URI{}, fmt.Errorf("query: %w", err)
	}
	base, transport, _ := strings.Cut(u.Scheme, "+")
	switch base {
	case "nbd":
	case "nbds":
		uri.TLS = true
	default:
		return URI{}, fmt.Errorf("scheme is %q, want nbd, nbds, nbd+unix or nbds+unix", u.Scheme)
	}
	if len(uri.Export) > maxName {
		return URI{}, fmt.Errorf("export name has %d bytes, at most %d are allowed", len(uri.Export), maxName)
	}
	switch {
	case u.Opaque != "":
		return URI{}, fmt.Errorf("want // behind %q", u.Scheme+":")
	case transport == "unix":
		return uri.onUnix(u)
	case transport == "" && !strings.Contains(u.Scheme, "+"):
		return uri.onTCP(u)
	}
	return URI{}, fmt.Errorf("transport %q is not supported, want TCP (%s://) or a unix socket (%s+unix://)", transport, base, base)
}

// onTCP fills in host and port.
func (uri URI) onTCP(u *url.URL) (URI, error) {
	if uri.Query.Has("socket") {
		return URI{}, errors.New("socket= is for nbd+unix:// and nbds+unix://")
	}
	uri.Host = u.Hostname()
	if uri.Host == "" {
		return URI{}, errors.New("no host; for a unix socket write nbd+unix:///EXPORT?socket=PATH")
	}
	if strings.Contains(uri.Host, ":") && !strings.HasPrefix(u.Host, "[") {
		return URI{}, fmt.Errorf("host %q: an IPv6 address stands in brackets", uri.Host)
	}
	if strings.HasPrefix(u.Host, "[") && strings.ContainsFunc(uri.Host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return URI{}, fmt.Errorf("host %q: in brackets want an IPv6 address, and behind %% a zone of printable ASCII", uri.Host)
	}
	port := strconv.Itoa(nbd.DefaultPort)
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return URI{}, fmt.Errorf("port is %q, want a number from 1 to 65535", text)
		}
		port = strconv.FormatUint(n, 10)
	}
	uri.Network, uri.Address = "tcp", net.JoinHostPort(uri.Host, port)
	return uri, nil
}

// onUnix fills in the socket.
func (uri URI) onUnix(u *url.URL) (URI, error) {
	sockets := uri.Query["socket"]
	switch {
	case u.Host != "":
		return URI{}, fmt.Errorf("a unix socket has no host, this names %q; want three slashes", u.Host)
	case len(sockets) != 1 || sockets[0] == "":
		return URI{}, errors.New("want one socket=PATH in the query")
	}
	uri.Network, uri.Address = "unix", sockets[0]
	return uri, nil
}

// String is a URI that ParseURI reads back as the same.
func (uri URI) String() string {
	u := url.URL{Scheme: "nbd", Host: uri.Address, Path: "/" + uri.Export}
	if uri.TLS {
		u.Scheme = "nbds"
	}
	if uri.Network == "unix" {
		u.Scheme += "+unix"
		u.Host = ""
	}
	if uri.User != "" {
		u.User = url.User(uri.User)
	}
	text := u.Scheme + "://"
	if u.User != nil {
		text += u.User.String() + "@"
	}
	text += hostText(u.Host) + u.EscapedPath()
	if len(uri.Query) > 0 {
		// Spaces as %20, which every URI library reads back; slashes stay, for the reader's sake.
		text += "?" + strings.NewReplacer("+", "%20", "%2F", "/").Replace(uri.Query.Encode())
	}
	return text
}

// hostText is a host and port as a URI spells them.
func hostText(host string) string {
	return strings.TrimPrefix((&url.URL{Host: host}).String(), "//")
}
