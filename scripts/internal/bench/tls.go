package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"jnbd/nbd/certs"
	"jnbd/nbd/nbdclient"
)

// The same loads over TLS and without, of jnbd and of nbdkit: certificates of one authority, which
// `jnbd tls init` makes, and each side wants the other's. fio's engine can't be told of certificates,
// so small requests are those of this tree's client, with the TLS of Go's library.

const (
	overTLS          = ", TLS"
	jnbdTLS          = jnbdAuto + overTLS
	nbdkitTLS server = "nbdkit file" + overTLS
)

// encrypted is a workload for each load. What a client takes from the same processors is large here:
// it decrypts and encrypts, too.
func encrypted() []workload {
	row := func(name, about string, l load) workload {
		return workload{name: "tls-" + name, about: about + ", over TLS and without", run: runRace, race: race{
			servers: []server{jnbdTLS, nbdkitTLS, jnbdAuto, nbdkitFile},
			image:   wholeImage,
			passes:  []pass{{name: steady, load: l}},
			wants:   []want{{pass: steady, ours: jnbdTLS, peers: []server{nbdkitTLS}, figure: rate}},
		}}
	}
	return []workload{
		row("4k-qd32", "4 KiB random writes, depth 32", pipelined{nbdclient.Write, 32}),
		row("4k-qd1", "4 KiB random writes, depth 1", pipelined{nbdclient.Write, 1}),
		row("read-qd32", "4 KiB random reads, depth 32", pipelined{nbdclient.Read, 32}),
		inBulk(row("copy-in", "nbdcopy of an image into the disk, and a flush", copyLoad{})),
		inBulk(row("copy-out", "nbdcopy of the disk to nowhere", copyLoad{out: true})),
	}
}

// pipelined is 4 KiB at random places of the disk over one connection, for the length of a
// measurement.
type pipelined struct {
	command nbdclient.Command
	depth   int
}

func (l pipelined) run(c *config, p *process) (result, error) {
	client, err := p.connect()
	if err != nil {
		return result{}, err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	data := incompressible(4096)
	done := make(chan *nbdclient.Call, l.depth)
	start := func() {
		offset := rng.Uint64N(uint64(c.diskBytes)/4096) * 4096
		client.Start(nbdclient.Request{Command: l.command, Offset: offset, Data: data}, done)
	}
	began, requests := time.Now(), 0
	for range l.depth {
		start()
	}
	for flying := l.depth; flying > 0; requests++ {
		if call := <-done; call.Err != nil {
			return result{}, errors.Join(call.Err, client.Close())
		}
		if time.Since(began) < c.runtime {
			start()
		} else {
			flying--
		}
	}
	took := time.Since(began)
	r := result{requests: float64(requests), rate: float64(requests) / took.Seconds(), bytes: float64(requests) * 4096, took: took}
	return r, client.Disconnect()
}

// connect is a client of the process, over TLS if it wants that.
func (p *process) connect() (*nbdclient.Client, error) {
	uri, err := nbdclient.ParseURI(p.uri())
	if err != nil {
		return nil, err
	}
	var options nbdclient.Options
	if p.certificates != "" {
		config, err := certs.ClientConfig(p.certificates, "localhost")
		if err != nil {
			return nil, err
		}
		options.Upgrade = func(conn net.Conn) (net.Conn, error) {
			secure := tls.Client(conn, config)
			return secure, secure.Handshake()
		}
	}
	return nbdclient.Connect(context.Background(), uri, options)
}

// certificates is a directory with an authority and what it gave a server and a client, made once.
func (c *config) certificates() (string, error) {
	dir := filepath.Join(c.dir, "tls")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if out, err := exec.Command(c.jnbd, "tls", "init", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("jnbd tls init: %w\n%s", err, out)
	}
	return dir, nil
}

// startTLS serves a disk over TLS.
func (c *config) startTLS(s server, at *place) (*process, error) {
	dir, err := c.certificates()
	if err != nil {
		return nil, err
	}
	var p *process
	if s == nbdkitTLS {
		p, err = startPeer(at.socket, "nbdkit", "--foreground", "--unix", at.socket, "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "file", at.disk)
	} else {
		p, _, err = c.startJnbd(at, "--tls-certificates", dir)
	}
	if p != nil {
		p.certificates = dir
	}
	return p, err
}
