package nbd

import "sync"

// workers perform requests that may wait for the medium. They are started as they are
// needed, up to a bound, and end when they are retired.
type workers struct {
	bound int
	jobs  chan *op // unbuffered: a send succeeds when a worker is free

	mu      sync.Mutex
	started int
	running sync.WaitGroup
}

// init sets the bound.
func (w *workers) init(bound int) {
	w.bound = bound
	w.jobs = make(chan *op)
}

// do gives o to a worker. It waits while all are busy.
func (w *workers) do(o *op) {
	select {
	case w.jobs <- o:
		return
	default:
	}
	w.mu.Lock()
	start := w.started < w.bound
	if start {
		w.started++
		w.running.Go(func() { w.work(o) }) // ends when the jobs are closed
	}
	w.mu.Unlock()
	if !start {
		w.jobs <- o
	}
}

// work performs first, and then what comes.
func (w *workers) work(first *op) {
	first.perform()
	for o := range w.jobs {
		o.perform()
	}
}

// retire ends the workers and waits for them. No do may follow.
func (w *workers) retire() {
	close(w.jobs)
	w.running.Wait()
}
