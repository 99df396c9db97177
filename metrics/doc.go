// Package metrics tells what a running jnbd does.
//
// Where to read:
//
//	state.go      what there is to tell, and its JSON: one State for every reader
//	source.go     where a State comes from: the server's and the disks' counters
//	histogram.go  how long things took
//	collector.go  a State as Prometheus metrics
//	handler.go    the HTTP side: /metrics, /healthz, /live.json
//	server.go     its server, for a TCP address and for a disk's control socket
//	control.go    the client of a control socket
//	page/         States as a page in a browser
//	top/          two States as a picture in a terminal
//	human/        figures as people read them
//
// Nothing here runs unless somebody asks: counting is done where things happen, without locks
// or allocations (nbd/latency.go, journal/stats.go), and adding up is done for each question.
package metrics
