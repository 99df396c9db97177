package vmtest

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// proxy stands between the guest and a server, and can hold back what the guest sends.
type proxy struct {
	t        *testing.T
	listener net.Listener
	server   string // address
	tasks    sync.WaitGroup

	mu      sync.Mutex
	links   []*link
	changed sync.Cond // a link has held more, or ended
	closing bool
}

// link is one connection through the proxy.
type link struct {
	client, server *net.TCPConn
	closed         chan struct{} // when the server has closed it

	// Guarded by proxy.mu.
	holding bool
	held    []byte // what the client has sent since
	left    bool   // the client has closed it
}

// newProxy begins a proxy that ends with the test.
func newProxy(t *testing.T, port int) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: listener, server: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	p.changed.L = &p.mu
	p.tasks.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		p.closing = true
		for _, l := range p.links {
			_ = errors.Join(l.client.Close(), l.server.Close())
		}
		p.changed.Broadcast()
		p.mu.Unlock()
		p.tasks.Wait()
	})
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// accept ends with the listener.
func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close() // as a server that is not there would
			continue
		}
		l := &link{client: client.(*net.TCPConn), server: server.(*net.TCPConn), closed: make(chan struct{})}
		p.mu.Lock()
		p.links = append(p.links, l)
		if p.closing {
			_ = errors.Join(l.client.Close(), l.server.Close())
		}
		p.mu.Unlock()
		p.tasks.Go(func() { p.upload(l) })
		p.tasks.Go(func() {
			_, _ = io.Copy(l.client, l.server)
			_, _ = io.Copy(io.Discard, l.server) // a client that has left is not the server's end
			_ = l.client.Close()
			close(l.closed)
		})
	}
}

// upload passes on what the client sends, or keeps it. It ends with the client.
func (p *proxy) upload(l *link) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.client.Read(buffer)
		p.mu.Lock()
		if l.holding {
			l.held = append(l.held, buffer[:n]...)
		} else if n > 0 {
			_, _ = l.server.Write(buffer[:n]) // the server's end is the other direction's to see
		}
		if err != nil {
			l.left = true
			if !l.holding {
				_ = l.server.CloseWrite()
			}
		}
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// hold keeps back what the client sends on the connections that there are.
func (p *proxy) hold() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var held []*link
	for _, l := range p.links {
		if !l.left {
			l.holding = true
			held = append(held, l)
		}
	}
	return held
}

// release sends the server what was held back, and the client's end right behind it in the
// same packet, as a network would that was congested all the while. The client must have
// held bytes of a request and must have left.
func (p *proxy) release(l *link, least int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for (len(l.held) < least || !l.left) && !p.closing {
		p.changed.Wait()
	}
	raw, err := l.server.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	var cork error
	err = raw.Control(func(fd uintptr) { cork = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
	_, write := l.server.Write(l.held)
	if err := errors.Join(err, cork, write, l.server.CloseWrite()); err != nil {
		p.t.Fatalf("release what was held back: %v", err)
	}
}
