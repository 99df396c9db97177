package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// lifetime of all certificates: who runs both ends replaces them by making a new
	// directory, not by a calendar.
	lifetime = 10 * 365 * 24 * time.Hour
	// backdated is how far the clocks of the two ends may differ.
	backdated = time.Hour
)

// Make makes an authority, a server's and a client's certificate in dir, which is made if it
// is missing, with mode 0700. hosts are the names and addresses by which clients reach the
// server; localhost is always one. client is the name that the client's certificate is
// issued to. It never replaces a file, and leaves none behind when it fails.
func Make(dir string, hosts []string, client string) error {
	if err := checkName(client); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	ca, caFiles, err := newAuthority()
	if err != nil {
		return err
	}
	server, err := ca.issue(serverTemplate(hosts), ServerCert, ServerKey)
	if err != nil {
		return err
	}
	clients, err := ca.issue(clientTemplate(client), ClientCert, ClientKey)
	if err != nil {
		return err
	}
	return writeAll(dir, slices.Concat(caFiles, server, clients))
}

// MakeClient issues a further client's certificate with the authority in dir, and writes it
// to out together with ca-cert.pem: all that the client needs.
func MakeClient(dir, name, out string) error {
	if err := checkName(name); err != nil {
		return err
	}
	ca, err := loadAuthority(dir)
	if err != nil {
		return err
	}
	files, err := ca.issue(clientTemplate(name), ClientCert, ClientKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return fmt.Errorf("make a client's certificate: %w", err)
	}
	return writeAll(out, append(files, file{CACert, pemOf("CERTIFICATE", ca.cert.Raw), 0o644}))
}

// checkName refuses a name that could not be told from others in a list or a log.
func checkName(name string) error {
	if name == "" || len(name) > 64 { // X.520's bound for a common name
		return fmt.Errorf("name of a client's certificate %q: want 1 to 64 bytes", name)
	}
	return nil
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// file is one to be written.
type file struct {
	name    string
	content []byte
	mode    fs.FileMode
}

// newAuthority makes an authority and its files.
func newAuthority() (*authority, []file, error) {
	template := leafTemplate("jnbd certificate authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	ca := &authority{cert: template, key: key}
	files, err := ca.sign(template, key, CACert, CAKey)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(files[0].content)
	if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, nil, fmt.Errorf("read the new authority's certificate back: %w", err)
	}
	return ca, files, nil
}

// loadAuthority reads the authority of a directory that Make has made.
func loadAuthority(dir string) (*authority, error) {
	certPEM, err := readPEM(filepath.Join(dir, CACert), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM(filepath.Join(dir, CAKey), "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CACert), err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAKey), err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", filepath.Join(dir, CAKey), CACert)
	}
	return &authority{cert, key}, nil
}

// issue makes a key and the certificate for it.
func (a *authority) issue(template *x509.Certificate, certName, keyName string) ([]file, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return a.sign(template, key, certName, keyName)
}

// sign makes the files of a certificate for key.
func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey, certName, keyName string) ([]file, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", certName, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", keyName, err)
	}
	return []file{
		{certName, pemOf("CERTIFICATE", der), 0o644},
		{keyName, pemOf("PRIVATE KEY", keyDER), 0o600},
	}, nil
}

// leafTemplate is what all certificates share. Key encipherment is there for QEMU, which
// asks for it whatever the kind of key.
func leafTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdated),
		NotAfter:  now.Add(lifetime),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
}

// serverTemplate is for a server that is reached by hosts.
func serverTemplate(hosts []string) *x509.Certificate {
	hosts = append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	template := leafTemplate("jnbd server")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for i, host := range hosts {
		if slices.Contains(hosts[:i], host) {
			continue
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return template
}

// clientTemplate is for a client of a name.
func clientTemplate(name string) *x509.Certificate {
	template := leafTemplate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return template
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeAll writes files that must not exist yet, all or none.
func writeAll(dir string, files []file) (err error) {
	var written []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range written {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and is never replaced: choose another directory, or remove it first: %w", path, err)
		}
		if err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
		written = append(written, path)
		_, err = out.Write(f.content)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}
