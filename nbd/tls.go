package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// TLS inside a connection ("TLS support" in proto.md):
//
//  1. The client asks with STARTTLS, and the server says ACK.
//  2. The handshake follows on the same socket, under the negotiation's deadline.
//  3. All that was agreed before is forgotten: who sat in the middle may have said it.
//  4. The client negotiates from the start. Its certificate, if the TLS configuration has
//     verified one, decides which exports there are for it.
//
// The bytes then pass through the TLS connection, while deadlines, looks for a hang-up and
// closing stay with the socket. The option's data was read to its last byte and no further,
// so what an intruder sends in the clear behind it meets the handshake and breaks it.

// TLSPolicy says which clients need TLS.
type TLSPolicy int

// The policies, by their names in proto.md.
const (
	// TLSOff refuses STARTTLS (NOTLS).
	TLSOff TLSPolicy = iota
	// TLSOn lets clients choose; an export with AllowedNames needs it (SELECTIVETLS).
	TLSOn
	// TLSRequire answers nothing but STARTTLS and ABORT before it (FORCEDTLS).
	TLSRequire
)

// tlsError is a handshake that failed.
type tlsError struct{ cause error }

func (e *tlsError) Error() string { return "tls handshake: " + e.cause.Error() }
func (e *tlsError) Unwrap() error { return e.cause }

// checkTLS says why the server's TLS options can't be served.
func (s *Server) checkTLS() error {
	if s.TLS != TLSOff && s.TLSConfig == nil {
		return errors.New("nbd: TLS is switched on without a configuration that has a certificate")
	}
	return nil
}

// startTLS is NBD_OPT_STARTTLS. It reports whether the handshake follows the answer.
func (c *conn) startTLS(a *answers, data []byte) bool {
	switch {
	case len(data) != 0:
		a.refuse(repErrInvalid, "a request for TLS has no data, this one has %d bytes", len(data))
	case c.secure != nil:
		a.refuse(repErrInvalid, "TLS is in use already")
	case c.server.TLS == TLSOff:
		a.refuse(repErrUnsup, "this server does not offer TLS")
	case !c.agreed.fixed:
		a.refuse(repErrInvalid, "TLS needs fixed newstyle negotiation, which the client has not agreed to")
	default:
		a.add(repAck, nil)
		return true
	}
	return false
}

// handshake makes the connection a secure one.
func (c *conn) handshake() error {
	secure := tls.Server(c.nc, c.server.TLSConfig)
	if err := secure.Handshake(); err != nil { // the negotiation's deadline ends it
		return &tlsError{err}
	}
	c.secure, c.stream = secure, secure
	c.outbox.sendThrough(secure)
	c.agreed = agreement{noZeroes: c.agreed.noZeroes, fixed: c.agreed.fixed}
	if chains := secure.ConnectionState().VerifiedChains; len(chains) > 0 {
		c.names = certificateNames(chains[0][0])
	}
	return nil
}

// certificateNames are the names that a certificate is issued to: the common name of its
// subject first, then the alternative ones.
func certificateNames(leaf *x509.Certificate) []string {
	var names []string
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	names = append(names, leaf.DNSNames...)
	names = append(names, leaf.EmailAddresses...)
	for _, uri := range leaf.URIs {
		names = append(names, uri.String())
	}
	return names
}

// clientName is the first name of the client's certificate, or empty.
func (c *conn) clientName() string {
	if len(c.names) == 0 {
		return ""
	}
	return c.names[0]
}

// needsTLS reports whether an option may not be answered before TLS is in use.
func (c *conn) needsTLS(option uint32) bool {
	return c.server.TLS == TLSRequire && c.secure == nil && option != optStartTLS && option != optAbort
}

// mayUse says, as an option's error reply, why the client may not use x; kind is 0 if it may.
func (c *conn) mayUse(x *export) (kind uint32, reason string) {
	switch {
	case len(x.AllowedNames) == 0:
		return 0, ""
	case c.secure == nil:
		return repErrTLSReqd, fmt.Sprintf("export %q needs TLS", x.Name)
	case slices.ContainsFunc(c.names, func(name string) bool { return slices.Contains(x.AllowedNames, name) }):
		return 0, ""
	case len(c.names) == 0:
		return repErrPolicy, fmt.Sprintf("export %q needs a client certificate", x.Name)
	}
	return repErrPolicy, fmt.Sprintf("the certificate of %q does not allow the use of export %q", c.clientName(), x.Name)
}

// sayGoodbye ends TLS in order, so that the client can tell the end from a cut. Nothing is
// being sent meanwhile. A client that takes nothing any more can delay it by the 5 s that
// crypto/tls gives it.
func (c *conn) sayGoodbye() {
	if c.secure != nil {
		_ = c.secure.CloseWrite() // a client that has left misses nothing
	}
}
