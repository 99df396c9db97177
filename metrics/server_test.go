package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"jnbd/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A port alone is one of the loopback; what is wrong is refused before anything is served.
func TestListen(t *testing.T) {
	for _, tt := range []struct{ address, host, wrong string }{
		{"0", "127.0.0.1", ""},
		{":0", "127.0.0.1", ""},
		{"127.0.0.1:0", "127.0.0.1", ""},
		{"[::]:0", "::", ""},
		{"", "", `metrics address ""`},
		{"http", "", "want PORT"},
		{"127.0.0.1:http", "", "want PORT"},
		{"70000", "", "want PORT"},
		{"192.0.2.1:0", "", "metrics: listen"}, // of nobody's
	} {
		t.Run(tt.address, func(t *testing.T) {
			l, err := Listen(tt.address)
			if err != nil {
				if tt.wrong == "" || !strings.Contains(err.Error(), tt.wrong) {
					t.Fatal(err)
				}
				return
			}
			defer l.Close()
			host, _, err := net.SplitHostPort(l.Addr().String())
			if err != nil || host != tt.host && host != "::" {
				t.Errorf("listens on %s (%v), want %s", l.Addr(), err, tt.host)
			}
			if tt.host == "127.0.0.1" && host != tt.host {
				t.Errorf("listens on %s, beyond the loopback", l.Addr())
			}
		})
	}
}

// However many clients come and stay, few are answered at a time, all are answered in the end,
// and Close waits for none that is silent.
func TestServerBounds(t *testing.T) {
	l, err := Listen("0")
	if err != nil {
		t.Fatal(err)
	}
	busy, release := make(chan struct{}, 10*maxConns), make(chan struct{})
	s := Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		busy <- struct{}{}
		<-release
	}))
	var conns []net.Conn
	for range 2 * maxConns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for range maxConns {
		<-busy
	}
	if n := len(busy); n != 0 {
		t.Errorf("%d more than %d are answered at a time", n, maxConns)
	}
	close(release)
	for i, c := range conns {
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
			t.Errorf("client %d got %q, %v", i, answer, err)
		}
	}
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// The client of a control socket gets states as long as there is a server, and is told when
// there is none.
func TestControl(t *testing.T) {
	r := newRig(t)
	socket := ControlSocket(filepath.Join(t.TempDir(), "d.img"))
	c := NewClient(socket)
	defer c.Close()
	if _, err := c.State(context.Background()); !errors.Is(err, ErrNoServer) {
		t.Errorf("without a socket: %v", err)
	}
	l, err := nbd.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, ForDisk(r.source, "d"))
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v; want mode 0600", info.Mode(), err)
	}
	for range 3 {
		r.write(t, 0, 4096)
		st, err := c.State(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if st.Export != "d" || st.Disks[0].Bytes != r.source.State().Disks[0].Bytes {
			t.Errorf("state %+v", st)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.State(context.Background()); !errors.Is(err, ErrNoServer) {
		t.Errorf("after the server's end: %v", err)
	}
}
