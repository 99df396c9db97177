package main

import (
	"crypto/tls"
	"fmt"
	"net"

	"jnbd/nbd/certs"
	"jnbd/nbd/nbdclient"
)

// clientOptions are what a URI asks for besides an export: with TLS the directory of its
// query's tls-certificates, as libnbd's tools have it, and its tls-hostname if the host's
// own name is not in the server's certificate.
func clientOptions(uri nbdclient.URI) (nbdclient.Options, error) {
	options := nbdclient.Options{Structured: true}
	if !uri.TLS {
		return options, nil
	}
	dir := uri.Query.Get("tls-certificates")
	if dir == "" {
		return options, usagef("%s: TLS needs certificates: add tls-certificates=DIR to its query", uri)
	}
	name := uri.Query.Get("tls-hostname")
	if name == "" {
		name = uri.Host
	}
	config, err := certs.ClientConfig(dir, name)
	if err != nil {
		return options, fmt.Errorf("tls-certificates: %w", err)
	}
	options.Upgrade = func(conn net.Conn) (net.Conn, error) {
		secure := tls.Client(conn, config)
		return secure, secure.Handshake()
	}
	return options, nil
}
