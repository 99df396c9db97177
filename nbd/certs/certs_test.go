package certs

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// made is a directory of Make.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := Make(dir, []string{"disks.example", "192.0.2.7"}, "alice"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shake runs a handshake between the two, and returns what each side says of it.
func shake(t *testing.T, serverConfig, clientConfig *tls.Config) (state tls.ConnectionState, server, client error) {
	t.Helper()
	near, far := net.Pipe()
	s, c := tls.Server(far, serverConfig), tls.Client(near, clientConfig)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		done <- err
		_ = far.Close()
	}()
	client = c.Handshake()
	if client == nil { // a client learns with its first read that its certificate is refused
		_, client = c.Read(make([]byte, 1))
	}
	_ = near.Close()
	server = <-done
	return s.ConnectionState(), server, client
}

func TestMadeCertificatesWork(t *testing.T) {
	dir := made(t)
	for _, name := range []string{CAKey, ServerKey, ClientKey} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", name, info.Mode(), err)
		}
	}
	bob := filepath.Join(t.TempDir(), "bob")
	if err := MakeClient(dir, "bob", bob); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, host, name string }{
		{dir, "", "alice"},
		{dir, "disks.example", "alice"},
		{dir, "192.0.2.7", "alice"},
		{dir, "::1", "alice"},
		{bob, "", "bob"},
	} {
		serverConfig, err := ServerConfig(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		clientConfig, err := ClientConfig(tt.dir, tt.host)
		if err != nil {
			t.Fatal(err)
		}
		state, server, client := shake(t, serverConfig, clientConfig)
		if server != nil || client != nil {
			t.Errorf("%s at %q: server %v, client %v", tt.name, tt.host, server, client)
			continue
		}
		if got := state.VerifiedChains[0][0].Subject.CommonName; got != tt.name {
			t.Errorf("the client is %q, want %q", got, tt.name)
		}
	}
}

func TestRefusedHandshakes(t *testing.T) {
	dir, other := made(t), made(t)
	nobody := t.TempDir() // knows the authority, has no certificate
	content, err := os.ReadFile(filepath.Join(dir, CACert))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(nobody, CACert), content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir, host string
		verify, refused bool
	}{
		{"another authority", other, "", true, true},
		{"another host", dir, "elsewhere.example", true, true},
		{"no certificate", nobody, "", true, true},
		{"no certificate, none wanted", nobody, "", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serverConfig, err := ServerConfig(dir, tt.verify)
			if err != nil {
				t.Fatal(err)
			}
			clientConfig, err := ClientConfig(tt.dir, tt.host)
			if err != nil {
				t.Fatal(err)
			}
			_, server, client := shake(t, serverConfig, clientConfig)
			if refused := server != nil && client != nil; refused != tt.refused {
				t.Errorf("server says %v, client says %v; want refused %v", server, client, tt.refused)
			}
		})
	}
}

// Nothing is ever replaced, and what can't be finished is not begun.
func TestMakeNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ClientKey) // the last one that Make writes
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(dir, nil, "alice"); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Make over %s: %v", path, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v (%v), want only what was there", entries, err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("%s holds %q (%v)", path, content, err)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := made(t)
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := t.TempDir()
	if _, err := ServerConfig(empty, true); err == nil || !strings.Contains(err.Error(), "jnbd tls init "+empty) {
		t.Errorf("server without certificates: %v", err)
	}
	if _, err := ClientConfig(empty, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("client without certificates: %v", err)
	}
	if err := MakeClient(empty, "bob", t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("issue without an authority: %v", err)
	}
	if err := MakeClient(dir, "", t.TempDir()); err == nil {
		t.Error("a certificate without a name")
	}
	write(CAKey, "-----BEGIN X-----\n-----END X-----\n")
	if err := MakeClient(dir, "bob", t.TempDir()); err == nil || !strings.Contains(err.Error(), CAKey) {
		t.Errorf("issue with a broken key: %v", err)
	}
	write(CACert, "nothing")
	if _, err := ServerConfig(dir, true); err == nil || !strings.Contains(err.Error(), CACert) {
		t.Errorf("server with a broken authority: %v", err)
	}
	write(ServerKey, "nothing")
	if _, err := ServerConfig(dir, false); err == nil || !strings.Contains(err.Error(), ServerKey) {
		t.Errorf("server with a broken key: %v", err)
	}
}
