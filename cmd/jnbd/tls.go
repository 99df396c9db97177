package main

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/spf13/cobra"

	"jnbd/nbd"
	"jnbd/nbd/certs"
)

// tlsOptions are serve's flags about TLS.
type tlsOptions struct {
	policy       string // --tls; empty: require with certificates, else off
	certificates string // --tls-certificates
	verifyPeer   bool   // --tls-verify-peer
}

// tlsPolicies are the values of --tls.
var tlsPolicies = map[string]nbd.TLSPolicy{"off": nbd.TLSOff, "on": nbd.TLSOn, "require": nbd.TLSRequire}

// resolve is the policy that the flags ask for.
func (o *tlsOptions) resolve() (nbd.TLSPolicy, error) {
	if o.policy == "" {
		if o.certificates != "" {
			return nbd.TLSRequire, nil
		}
		return nbd.TLSOff, nil
	}
	policy, ok := tlsPolicies[o.policy]
	switch {
	case !ok:
		return 0, usagef("--tls %q: want off, on or require", o.policy)
	case policy != nbd.TLSOff && o.certificates == "":
		return 0, usagef("--tls %s needs --tls-certificates DIR; 'jnbd tls init DIR' makes them", o.policy)
	case policy == nbd.TLSOff && o.certificates != "":
		return 0, usagef("--tls off and --tls-certificates contradict each other")
	}
	return policy, nil
}

// liveTLS is the TLS configuration of a server, whose certificates can be read again.
type liveTLS struct {
	options tlsOptions
	policy  nbd.TLSPolicy
	current atomic.Pointer[tls.Config]
}

// newLiveTLS loads the certificates, if there is to be TLS.
func newLiveTLS(options tlsOptions) (*liveTLS, error) {
	policy, err := options.resolve()
	if err != nil {
		return nil, err
	}
	l := &liveTLS{options: options, policy: policy}
	return l, l.reload()
}

// reload reads the certificates again. Connections that are open keep theirs.
func (l *liveTLS) reload() error {
	if l.policy == nbd.TLSOff {
		return nil
	}
	config, err := certs.ServerConfig(l.options.certificates, l.options.verifyPeer)
	if err != nil {
		return fmt.Errorf("--tls-certificates: %w", err)
	}
	l.current.Store(config)
	return nil
}

// config is what the server uses; nil without TLS.
func (l *liveTLS) config() *tls.Config {
	if l.policy == nbd.TLSOff {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return l.current.Load(), nil
	}}
}

// localURI is a URI with which a client on this host finds its certificates, too.
func (o *tlsOptions) localURI(uri string) string {
	parsed, err := url.Parse(uri)
	if err != nil || o.certificates == "" {
		return uri
	}
	dir, err := filepath.Abs(o.certificates)
	if err != nil {
		return uri
	}
	joint := "?"
	if parsed.RawQuery != "" {
		joint = "&"
	}
	return uri + joint + "tls-certificates=" + (&url.URL{Path: dir}).EscapedPath()
}

func (a *app) tlsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tls",
		Short: "Make certificates for NBD over TLS",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: want init or client", args[0])
			}
			return usagef("tls: want init or client")
		},
	}
	cmd.AddCommand(a.tlsInitCommand(), a.tlsClientCommand())
	return cmd
}

func (a *app) tlsInitCommand() *cobra.Command {
	var hosts []string
	client := "client"
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make an authority, a server's and a client's certificate",
		Long: `Init makes all that NBD over TLS needs in DIR: the authority (ca-cert.pem, ca-key.pem),
and certificates with keys for the server (server-cert.pem, server-key.pem) and for a
client (client-cert.pem, client-key.pem), named as nbdkit, libnbd and QEMU expect them.
Then 'jnbd serve DISK --tls-certificates DIR' serves over TLS only.

A client needs ca-cert.pem, client-cert.pem and client-key.pem, for instance as
'nbdinfo nbds://HOST/DISK?tls-certificates=DIR'. The keys of the server and the
authority stay with the server.`,
		Args: exactArgs("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			if host, err := os.Hostname(); err == nil {
				hosts = append(hosts, host)
			}
			if err := certs.Make(args[0], hosts, client); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.stdout, "made %s; serve with: jnbd serve DISK --tls-certificates %s\n", args[0], args[0])
			return err
		},
	}
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "a name or address by which clients reach the server, besides localhost and this host's name; can be repeated")
	cmd.Flags().StringVar(&client, "client", client, "the name that the client's certificate is issued to")
	return cmd
}

func (a *app) tlsClientCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "client DIR NAME OUT",
		Short: "Make a certificate for a further client",
		Long: `Client issues a certificate to NAME with the authority that 'jnbd tls init' made in DIR,
and writes it with its key and ca-cert.pem to the directory OUT, which is all that the
client needs. An export can be restricted to names with --tls-allow.`,
		Args: exactArgs("DIR", "NAME", "OUT"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := certs.MakeClient(args[0], args[1], args[2]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.stdout, "made %s for %s\n", args[2], args[1])
			return err
		},
	}
}
