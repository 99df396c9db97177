package nbdclient

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"jnbd/nbd"
)

func TestParseURI(t *testing.T) {
	for _, c := range []struct {
		text                     string
		network, address, export string
		tls                      bool
		user, want               string // want: what String says, if not text
	}{
		{text: "nbd://example.com/disk", network: "tcp", address: "example.com:10809", export: "disk", want: "nbd://example.com:10809/disk"},
		{text: "nbd://example.com", network: "tcp", address: "example.com:10809", want: "nbd://example.com:10809/"},
		{text: "nbd://10.0.2.2:123/", network: "tcp", address: "10.0.2.2:123"},
		{text: "nbd://[::1]:123/a/b%20c", network: "tcp", address: "[::1]:123", export: "a/b c"},
		{text: "nbd://h:1//slash", network: "tcp", address: "h:1", export: "/slash"},
		{text: "nbds://me@h:1/x?tls-certificates=/etc/pki", network: "tcp", address: "h:1", export: "x", tls: true, user: "me"},
		{text: "nbd+unix:///?socket=/run/a%20b", network: "unix", address: "/run/a b"},
		{text: "nbd+unix:///disk?socket=rel.sock", network: "unix", address: "rel.sock", export: "disk"},
		{text: "nbd+unix://?socket=/s", network: "unix", address: "/s", want: "nbd+unix:///?socket=/s"},
		{text: "nbds+unix:///d%C3%BC?socket=/s", network: "unix", address: "/s", export: "dü", tls: true},
	} {
		uri, err := ParseURI(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if uri.Network != c.network || uri.Address != c.address || uri.Export != c.export || uri.TLS != c.tls || uri.User != c.user {
			t.Errorf("%s: %+v", c.text, uri)
		}
		if c.want == "" {
			c.want = c.text
		}
		if got := uri.String(); got != c.want {
			t.Errorf("%s: String is %s, want %s", c.text, got, c.want)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"/dev/nbd0":                "scheme",
		"http://h/":                "scheme",
		"nbd+vsock://1/":           "vsock",
		"nbd+://h/":                "transport",
		"nbd:///x":                 "no host",
		"nbd:h:1":                  "//",
		"nbd://h:0/":               "port",
		"nbd://h:99999/":           "port",
		"nbd://h:1:":               "brackets",
		"nbd://h/?socket=/s":       "socket=",
		"nbd+unix:///x":            "socket=PATH",
		"nbd+unix:///x?socket=":    "socket=PATH",
		"nbd+unix://h/x?socket=/s": "three slashes",
		"nbd+unix:///x?socket=%zz": "query",
		"nbd://h/%zz":              "escape",
		"nbd://h/" + strings.Repeat("x", maxName+1): "4096",
	} {
		if uri, err := ParseURI(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %+v, %v, want an error with %q", text, uri, err, want)
		}
	}
}

// What the server prints is what the client reads.
func TestServersURI(t *testing.T) {
	for _, export := range []string{"", "disk", "my disk/ü?#+%", "/"} {
		path := filepath.Join(t.TempDir(), "s t+u&v")
		l, err := nbd.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		uri, err := ParseURI(nbd.URI(l, export))
		if err != nil || uri.Export != export || uri.Address != path {
			t.Errorf("%q: %s is read as %+v, %v", export, nbd.URI(l, export), uri, err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"nbd://h:1/x", "nbds://u@h:1/x?a=b", "nbd+unix:///x?socket=/s&a=%20", "nbd://[::1]/", "nbd://[fe80::1%25eth0]:1/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := ParseURI(text)
		if err != nil {
			return
		}
		again, err := ParseURI(uri.String())
		if err != nil || !reflect.DeepEqual(again, uri) {
			t.Errorf("%q is %+v, printed as %q, and read back as %+v, %v", text, uri, uri, again, err)
		}
	})
}
