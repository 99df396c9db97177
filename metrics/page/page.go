// Package page is the status page of a server: the log's ring, rates, fill and latency, drawn
// in the browser from the states of /live.json. It needs nothing from elsewhere; the plots are
// uPlot's, which files/uplot holds with its licence (MIT).
package page

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed files
var files embed.FS

// policy lets the page have what lies beside it and nothing else, and nobody frame it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page at / and its parts beside it. It knows nothing of /live.json.
func Handler() http.Handler {
	parts, err := fs.Sub(files, "files")
	if err != nil {
		panic(err) // the name is a constant
	}
	server := http.FileServerFS(parts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // a newer jnbd has another page
		server.ServeHTTP(w, r)
	})
}
