// Package certs makes and loads the certificates of NBD over TLS. Files are called as
// nbdkit, libnbd and QEMU expect them in a directory:
//
//	ca-cert.pem      the authority that both sides trust
//	server-cert.pem  server-key.pem    what the server shows
//	client-cert.pem  client-key.pem    what a client shows
//
// Make adds ca-key.pem, which issues further certificates and is best kept elsewhere.
package certs

// Names of the files.
const (
	CACert     = "ca-cert.pem"
	CAKey      = "ca-key.pem"
	ServerCert = "server-cert.pem"
	ServerKey  = "server-key.pem"
	ClientCert = "client-cert.pem"
	ClientKey  = "client-key.pem"
)
