package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ServerConfig is the TLS configuration of a server with the certificates of dir:
// server-cert.pem and server-key.pem. With verifyClients it also needs ca-cert.pem, and
// lets in only clients with a certificate of that authority. TLS 1.2 is the least.
func ServerConfig(dir string, verifyClients bool) (*tls.Config, error) {
	pair, err := loadPair(dir, ServerCert, ServerKey)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		// A disk's replies are bulk: records grow to their full size at once.
		DynamicRecordSizingDisabled: true,
	}
	if verifyClients {
		if config.ClientCAs, err = loadPool(filepath.Join(dir, CACert)); err != nil {
			return nil, err
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// ClientConfig is the TLS configuration of a client with the certificates of dir:
// ca-cert.pem, and client-cert.pem with client-key.pem if they are there. serverName is the
// name or address that the server's certificate must be issued to; empty means localhost.
func ClientConfig(dir, serverName string) (*tls.Config, error) {
	if serverName == "" {
		serverName = "localhost"
	}
	pool, err := loadPool(filepath.Join(dir, CACert))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: serverName,
		DynamicRecordSizingDisabled: true,
	}
	if _, err := os.Stat(filepath.Join(dir, ClientCert)); errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	pair, err := loadPair(dir, ClientCert, ClientKey)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// loadPair reads a certificate and its key.
func loadPair(dir, cert, key string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, cert), filepath.Join(dir, key))
	if errors.Is(err, fs.ErrNotExist) {
		return pair, fmt.Errorf("certificates in %s: %w; 'jnbd tls init %s' makes them", dir, err, dir)
	}
	if err != nil {
		return pair, fmt.Errorf("certificates in %s: %s with %s: %w", dir, cert, key, err)
	}
	return pair, nil
}

// loadPool reads the certificates of authorities.
func loadPool(path string) (*x509.CertPool, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("certificates: %s holds no certificate in PEM form", path)
	}
	return pool, nil
}

// readPEM is the first block of a file, which must be of the kind.
func readPEM(path, kind string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("certificates: %s does not begin with a PEM block %q", path, kind)
	}
	return block.Bytes, nil
}
