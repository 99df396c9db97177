package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// resizePath is where the size of a disk is changed: POST, with bytes as a parameter.
const resizePath = "/resize"

// resizeTimeout is how long the answer to a resize may take: a full log is brought home first.
const resizeTimeout = 2 * time.Minute

// maxRefusal bounds the text of a refusal.
const maxRefusal = 4096

// WithResize is a control socket's handler that also makes its disk larger, by grow. It is
// for who may write the disk: never for an address of Handler.
func WithResize(h http.Handler, grow func(ctx context.Context, bytes int64) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("POST "+resizePath, func(w http.ResponseWriter, r *http.Request) {
		bytes, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		if err != nil {
			http.Error(w, "bytes: "+err.Error(), http.StatusBadRequest)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(resizeTimeout)) // else it is the server's
		ctx, cancel := context.WithTimeout(r.Context(), resizeTimeout)
		defer cancel()
		if err := grow(ctx, bytes); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	return mux
}

// Resize asks the server for a larger disk, and waits until it is. If nobody listens on the
// socket, it returns ErrNoServer.
func (c *Client) Resize(ctx context.Context, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	query := url.Values{"bytes": {strconv.FormatInt(bytes, 10)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://jnbd"+resizePath+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	patient := http.Client{Transport: c.http.Transport}
	response, err := patient.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", c.from, noServer(err))
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err != nil {
		return fmt.Errorf("%s: %w", c.from, err)
	}
	return errors.New(strings.TrimSpace(string(text)))
}
