package metrics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"jnbd/metrics/page"
)

// Handler is what a Source tells over HTTP:
//
//	/metrics    for Prometheus
//	/healthz    200 and "ok", or 503 and the reason when a disk is poisoned
//	/live.json  a State
//	/           the status page, which draws states
func Handler(from *Source) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(NewRegistry(from.State), promhttp.HandlerOpts{MaxRequestsInFlight: maxConns}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { health(w, from) })
	mux.HandleFunc("GET "+livePath, func(w http.ResponseWriter, _ *http.Request) { answer(w, from.State()) })
	mux.Handle("GET /", page.Handler())
	return mux
}

// livePath is where a State is to be had.
const livePath = "/live.json"

// health is for load balancers and service managers: one look, one answer.
func health(w http.ResponseWriter, from *Source) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	poisoned := from.Poisoned()
	if len(poisoned) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	var reasons []string
	for export, err := range poisoned {
		reasons = append(reasons, fmt.Sprintf("%s is poisoned, restart jnbd to recover: %v\n", export, err))
	}
	slices.Sort(reasons)
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprint(w, strings.Join(reasons, ""))
}

// answer answers with a State.
func answer(w http.ResponseWriter, st *State) {
	body, err := json.Marshal(st)
	if err != nil {
		http.Error(w, "encode: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // an error is the client's leaving
}
