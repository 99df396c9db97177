package nbd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/nbd/certs"
)

// pki is a directory of certificates, whose client is alice, and another for bob.
type pki struct{ dir, bob string }

// makePKI makes the certificates of a test.
func makePKI(t testing.TB) pki {
	t.Helper()
	p := pki{filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "bob")}
	if err := certs.Make(p.dir, nil, "alice"); err != nil {
		t.Fatal(err)
	}
	if err := certs.MakeClient(p.dir, "bob", p.bob); err != nil {
		t.Fatal(err)
	}
	return p
}

// server is the server's configuration.
func (p pki) server(t testing.TB) *tls.Config {
	t.Helper()
	config, err := certs.ServerConfig(p.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// client is the configuration of a client with the certificates of a directory.
func (p pki) client(t testing.TB, dir string) *tls.Config {
	t.Helper()
	config, err := certs.ClientConfig(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// secure sends STARTTLS and goes over to TLS.
func (c *client) secure(config *tls.Config) {
	c.t.Helper()
	c.mustAck(c.option(optStartTLS, nil))
	c.structured, c.extended = false, false // forgotten
	secure := tls.Client(c.nc, config)
	_ = c.nc.SetDeadline(time.Now().Add(patience))
	if err := secure.Handshake(); err != nil {
		c.t.Fatalf("tls handshake: %v", err)
	}
	c.nc = secure
}

// tlsServer serves "open" to everyone and "closed" to alice.
func tlsServer(t *testing.T, policy TLSPolicy) (path string, p pki, log *eventLog) {
	t.Helper()
	p, log = makePKI(t), newEventLog()
	return startServer(t, &Server{
		TLS: policy, TLSConfig: p.server(t), OnEvent: log.add,
		Exports: []Export{
			{Name: "open", Device: newMemDisk(1 << 20)},
			{Name: "closed", Device: newMemDisk(1 << 20), AllowedNames: []string{"carol", "alice"}},
		},
	}), p, log
}

func TestTLSPolicies(t *testing.T) {
	const (
		open   = "SERVER open|"
		closed = "SERVER closed|"
		info   = "EXPORT 00000000001000000d6d\n" + firstSizes + "\nACK"
	)
	tables := []struct {
		name   string
		policy TLSPolicy
		as     string // "", alice or bob
		option uint32
		data   []byte
		want   string
	}{
		{"list in the clear", TLSOn, "", optList, nil, open + "\nACK"},
		{"list as alice", TLSOn, "alice", optList, nil, open + "\n" + closed + "\nACK"},
		{"list as bob", TLSOn, "bob", optList, nil, open + "\nACK"},
		{"go in the clear", TLSOn, "", optGo, infoRequest("open"), info},
		{"go to closed in the clear", TLSOn, "", optGo, infoRequest("closed"), "ERR_TLS_REQD"},
		{"go to closed as bob", TLSOn, "bob", optGo, infoRequest("closed"), "ERR_POLICY"},
		{"go to closed as alice", TLSOn, "alice", optGo, infoRequest("closed"), info},
		{"contexts of closed as bob", TLSOn, "bob", optListMetaContext, metaQuery("closed"), "ERR_INVALID"},
		{"tls inside tls", TLSOn, "alice", optStartTLS, nil, "ERR_INVALID"},
		{"tls with data", TLSOn, "", optStartTLS, []byte{0}, "ERR_INVALID"},

		{"list is too early", TLSRequire, "", optList, nil, "ERR_TLS_REQD"},
		{"info is too early", TLSRequire, "", optInfo, infoRequest("open"), "ERR_TLS_REQD"},
		{"go is too early", TLSRequire, "", optGo, infoRequest("open"), "ERR_TLS_REQD"},
		{"structured is too early", TLSRequire, "", optStructuredReply, nil, "ERR_TLS_REQD"},
		{"contexts are too early", TLSRequire, "", optSetMetaContext, nil, "ERR_TLS_REQD"},
		{"unknown is too early", TLSRequire, "", 0x7fffffff, nil, "ERR_TLS_REQD"},
		{"abort is not", TLSRequire, "", optAbort, nil, "ACK"},
		{"go as bob", TLSRequire, "bob", optGo, infoRequest("open"), info},
	}
	for _, tt := range tables {
		t.Run(tt.name, func(t *testing.T) {
			path, p, log := tlsServer(t, tt.policy)
			c := dial(t, path)
			switch tt.as {
			case "alice":
				c.secure(p.client(t, p.dir))
			case "bob":
				c.secure(p.client(t, p.bob))
			}
			if got := describe(c.option(tt.option, tt.data)); got != tt.want {
				t.Errorf("replies:\n%s\nwant:\n%s", got, tt.want)
			}
			if tt.option == optGo && tt.want == info {
				c.must(cmdWrite, cfFUA, 0, 0, []byte("hello"))
				if e := log.await(t, ofKind(ConnAttached)); e.Client != tt.as {
					t.Errorf("the event tells of client %q, want %q", e.Client, tt.as)
				}
			}
		})
	}
}

// EXPORT_NAME has no error reply: the connection ends.
func TestTLSAndExportName(t *testing.T) {
	for _, tt := range []struct {
		policy TLSPolicy
		as     func(pki) string
		export string
	}{
		{TLSRequire, nil, "open"},
		{TLSOn, nil, "closed"},
		{TLSOn, func(p pki) string { return p.bob }, "closed"},
	} {
		path, p, _ := tlsServer(t, tt.policy)
		c := dial(t, path)
		if tt.as != nil {
			c.secure(p.client(t, tt.as(p)))
		}
		c.sendOption(optExportName, []byte(tt.export))
		c.mustBeClosed()
	}
}

// Whatever was agreed before TLS may have been said by an intruder: it counts no more.
func TestTLSForgets(t *testing.T) {
	path, p, _ := tlsServer(t, TLSOn)
	c := dial(t, path)
	c.mustAck(c.option(optStructuredReply, nil))
	c.mustAck(c.option(optSetMetaContext, metaQuery("open", "base:allocation")))
	c.mustAck(c.option(optInfo, infoRequest("open")))
	c.mustAck(c.option(optExtendedHeaders, nil))
	c.secure(p.client(t, p.dir))
	if got := describe(c.option(optSetMetaContext, metaQuery("open", "base:allocation"))); got != "ERR_INVALID" {
		t.Errorf("contexts without structured replies inside TLS: %s", got)
	}
	c.chooseExport("open")
	c.must(cmdRead, 0, 0, 512, nil) // fails on a structured reply
	if r := c.do(cmdBlockStatus, 0, 0, 4096, nil); r.errno != EINVAL {
		t.Errorf("block status with a context of before: %v, want EINVAL", r.errno)
	}
}

// What is sent in the clear behind STARTTLS never passes for something said inside.
func TestTLSInjection(t *testing.T) {
	path, _, log := tlsServer(t, TLSOn)
	c := dial(t, path)
	sent := append(append([]byte("IHAVEOPT"), be32(optStartTLS)...), be32(0)...)
	for range 2 {
		sent = append(append(append(sent, "IHAVEOPT"...), be32(optStructuredReply)...), be32(0)...)
	}
	c.write(sent)
	c.read(20) // ACK
	if e := log.await(t, ofKind(ConnClosed)); e.Reason != reasonTLS {
		t.Errorf("closed because %q (%v), want %q", e.Reason, e.Err, reasonTLS)
	}
}

func TestTLSHandshakeFails(t *testing.T) {
	path, p, log := tlsServer(t, TLSOn)
	for name, config := range map[string]*tls.Config{
		"old version":    {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, Certificates: p.client(t, p.dir).Certificates},
		"no certificate": {InsecureSkipVerify: true},
	} {
		c := dial(t, path)
		c.mustAck(c.option(optStartTLS, nil))
		secure := tls.Client(c.nc, config)
		_ = c.nc.SetDeadline(time.Now().Add(patience))
		err := secure.Handshake()
		if err == nil {
			_, err = secure.Read(make([]byte, 1))
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: the client was told %v, want an alert", name, err)
		}
	}
	log.await(t, func(e Event) bool { return e.Kind == ConnClosed && e.Reason == reasonTLS })
}

// helloOf is what a TLS client says first.
func helloOf(config *tls.Config) []byte {
	near, far := net.Pipe()
	go func() { // ends with the pipe
		_ = tls.Client(near, config).Handshake()
		_ = near.Close()
	}()
	head := make([]byte, 5)
	_, _ = io.ReadFull(far, head)
	rest := make([]byte, int(head[3])<<8|int(head[4]))
	_, _ = io.ReadFull(far, rest)
	_ = far.Close()
	return append(head, rest...)
}

// A client that stops inside the handshake is closed when the negotiation's time is over,
// wherever it stops and however slowly it came there.
func TestTLSHandshakeTimeout(t *testing.T) {
	p := makePKI(t)
	hello := helloOf(p.client(t, p.dir))
	serverConfig := p.server(t)
	for n := 0; n <= len(hello); n += max(1, len(hello)/20) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			log := newEventLog()
			s := &Server{TLS: TLSOn, TLSConfig: serverConfig, OnEvent: log.add, Exports: []Export{{Device: newMemDisk(memPage)}}}
			defer s.Close()
			if err := s.setUp(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			s.accepted(far)
			c := &client{t: t, nc: near}
			c.read(18)
			c.write(be32(3))
			c.mustAck(c.option(optStartTLS, nil))
			_ = near.SetDeadline(time.Time{})
			var reading sync.WaitGroup
			reading.Go(func() { _, _ = io.Copy(io.Discard, near) }) // a pipe has no buffer
			pace := 9 * time.Second / time.Duration(len(hello))
			for _, b := range hello[:n] {
				if _, err := near.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
				<-time.After(pace) // of the test's own clock
			}
			e := log.await(t, ofKind(ConnClosed))
			if took := time.Since(start); took != defaultHandshakeTimeout || e.Reason != reasonTimeout {
				t.Errorf("after %d bytes: closed after %v because %q (%v), want 10s, %q", n, took, e.Reason, e.Err, reasonTimeout)
			}
			_ = near.Close()
			reading.Wait()
		})
	}
}

// A client can tell the end from a cut: DISC and a stop both end TLS in order.
func TestTLSEndsInOrder(t *testing.T) {
	for name, end := range map[string]func(c *client, s *Server){
		"disconnect": func(c *client, _ *Server) { c.send(cmdDisc, 0, 0, 0, nil) },
		"shutdown":   func(_ *client, s *Server) { _ = s.Shutdown(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			p := makePKI(t)
			s := &Server{TLS: TLSRequire, TLSConfig: p.server(t), Exports: []Export{{Device: newMemDisk(1 << 20)}}}
			c := dial(t, startServer(t, s))
			c.secure(p.client(t, p.dir))
			c.chooseExport("")
			c.must(cmdWrite, 0, 0, 0, make([]byte, 300<<10))
			end(c, s)
			if _, err := c.nc.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the client's read ends with %v, want io.EOF", err)
			}
		})
	}
}

// A client that gave up is noticed through TLS as well: its stalled write is dropped.
func TestTLSGhostIsDropped(t *testing.T) {
	p, log := makePKI(t), newEventLog()
	d := newMemDisk(1 << 20)
	entered, release := stall(d)
	s := &Server{TLS: TLSRequire, TLSConfig: p.server(t), OnEvent: log.add, Exports: []Export{{Device: d}}}
	path := startServer(t, s)
	var clients [2]*client
	for i := range clients {
		clients[i] = dial(t, path)
		clients[i].secure(p.client(t, p.dir))
		clients[i].chooseExport("")
	}
	ghost, successor := clients[0], clients[1]
	ghost.send(cmdWrite, 0, 0, 0, []byte("old"))
	<-entered
	_ = ghost.nc.Close()
	successor.must(cmdWrite, 0, 0, 0, []byte("new"))
	close(release)
	log.await(t, closedOf(1))
	if got := d.content(0, 3); string(got) != "new" {
		t.Errorf("the disk holds %q, want what the successor wrote", got)
	}
}

// A client inside TLS that reads nothing holds nobody up, and memory stays bounded.
func TestTLSNeverReadingClient(t *testing.T) {
	p := makePKI(t)
	s := &Server{TLS: TLSOn, TLSConfig: p.server(t), Exports: []Export{{Device: newMemDisk(8 << 20)}}}
	path := startServer(t, s)
	silent := dial(t, path)
	silent.secure(p.client(t, p.dir))
	silent.chooseExport("")
	flood(t, silent, encodeRequest(cmdRead, 0, 1, 0, 1<<20, nil))
	other := attach(t, path)
	for range 20 {
		other.must(cmdRead, 0, 0, 1<<20, nil)
		other.must(cmdWrite, 0, 0, 0, make([]byte, 1<<20))
	}
	if held := s.Stats().BufferBytes; held > 16<<20 {
		t.Errorf("%d bytes of buffers are held for 1 MiB requests, want at most one pool of 16 MiB", held)
	}
}

func TestTLSOptions(t *testing.T) {
	d := newMemDisk(memPage)
	for want, s := range map[string]*Server{
		"without a configuration": {TLS: TLSOn, Exports: []Export{{Device: d}}},
		"needs TLS":               {Exports: []Export{{Device: d, AllowedNames: []string{"alice"}}}},
	} {
		l, err := Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Serve: %v, want an error about %q", err, want)
		}
	}
}

func TestTLSInterop(t *testing.T) {
	p := makePKI(t)
	d := newMemDisk(20 << 20)
	s := &Server{TLS: TLSRequire, TLSConfig: p.server(t), Exports: []Export{{Name: "disk", Device: d, AllowedNames: []string{"alice"}}}}
	path := startServer(t, s)
	l, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { _ = s.Serve(l); close(served) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	source, content := image(t, 20<<20)
	_, port, _ := net.SplitHostPort(l.Addr().String())

	for kind, uri := range map[string]string{
		"unix": "nbds+unix:///disk?socket=" + path + "&tls-certificates=" + p.dir,
		"tcp":  "nbds://localhost:" + port + "/disk?tls-certificates=" + p.dir,
	} {
		if out := run(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") || !strings.Contains(out, "export-size: 20971520") {
			t.Errorf("%s: nbdinfo:\n%s", kind, out)
		}
		run(t, "nbdcopy", "--connections=4", "--flush", source, uri)
		if !bytes.Equal(d.content(0, len(content)), content) {
			t.Errorf("%s: the disk differs from what was copied to it", kind)
		}
	}
	creds := "tls-creds-x509,id=t,endpoint=client,dir=" + p.dir
	target := "driver=nbd,server.type=inet,server.host=localhost,server.port=" + port + ",export=disk,tls-creds=t"
	run(t, "qemu-img", "compare", "--object", creds, "--image-opts", "driver=file,filename="+source, target)
	if out := run(t, "qemu-img", "map", "--output=json", "--object", creds, "--image-opts", target); !strings.Contains(out, `"zero": true`) {
		t.Errorf("qemu-img map:\n%s", out)
	}
}
