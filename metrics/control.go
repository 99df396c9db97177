package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// The control socket of a disk lies beside it, for those who may write the disk: it has mode
// 0600. It speaks HTTP, with the paths of Handler.

// ErrNoServer is a Client's answer when nobody listens.
var ErrNoServer = errors.New("no server is listening")

const (
	askTimeout = 5 * time.Second
	// maxStateBytes bounds an answer; it takes some 2 KiB a disk.
	maxStateBytes = 16 << 20
)

// ControlSocket is where the control socket of a disk lies.
func ControlSocket(diskPath string) string { return diskPath + ".ctl" }

// ForDisk is Handler for the control socket of one export: its states name it.
func ForDisk(from *Source, export string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", Handler(from))
	mux.HandleFunc("GET "+livePath, func(w http.ResponseWriter, _ *http.Request) {
		st := from.State()
		st.Export = export
		answer(w, st)
	})
	return mux
}

// Client asks one server, again and again over one connection.
type Client struct {
	from string // for people
	url  string
	http http.Client
}

// NewClient makes a client of a control socket. It does not connect yet. Close ends it.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return newClient("control socket "+socket, "http://jnbd", &http.Transport{DialContext: dial})
}

// NewHTTPClient makes a client of what serve --metrics listens on, as http://HOST:PORT.
func NewHTTPClient(base string) *Client {
	return newClient(base, strings.TrimRight(base, "/"), &http.Transport{})
}

func newClient(from, base string, transport *http.Transport) *Client {
	transport.MaxIdleConns = 1
	return &Client{from: from, url: base + livePath, http: http.Client{Timeout: askTimeout, Transport: transport}}
}

// Close closes the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// State asks for a state. If nobody listens, it returns ErrNoServer.
func (c *Client) State(ctx context.Context) (*State, error) {
	st, err := c.state(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.from, noServer(err))
	}
	return st, nil
}

// noServer is ErrNoServer for an error that says that nobody listens, else err.
func noServer(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return ErrNoServer
	}
	return err
}

func (c *Client) state(ctx context.Context) (*State, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %q", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxStateBytes))
	if err != nil {
		return nil, err
	}
	st := &State{}
	if err := json.Unmarshal(body, st); err != nil {
		return nil, fmt.Errorf("decode the answer: %w", err)
	}
	return st, nil
}
