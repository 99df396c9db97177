package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd"
)

// brittle is a device whose writes fail once it is broken.
type brittle struct {
	disk.Device
	broken atomic.Bool
}

var errBroken = errors.New("the medium is gone")

func (b *brittle) WriteAt(p []byte, off int64) (int, error) {
	if b.broken.Load() {
		return 0, errBroken
	}
	return b.Device.WriteAt(p, off)
}

// rig is a source of one disk in memory, 16 MiB in mode auto.
type rig struct {
	source  *Source
	disk    *journal.Disk
	journal *brittle
}

func newRig(t *testing.T) *rig {
	t.Helper()
	const size = 16 << 20
	format := journal.FormatOptions{DiskBytes: size, JournalBytes: journal.MinJournalBytes, Mode: jsuper.Auto}
	r := &rig{journal: &brittle{Device: disk.NewMem(journal.JournalSize(format))}}
	parts := journal.Parts{Backing: disk.NewMem(size), Journal: r.journal, Placement: jsuper.Beside}
	if _, err := journal.Format(parts, format); err != nil {
		t.Fatal(err)
	}
	flush := &nbd.Latency{}
	var err error
	r.disk, err = journal.Open(parts, journal.Options{OnFlush: func(took time.Duration) { flush.Observe(took, 1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.disk.Close(context.Background()); err != nil && !r.journal.broken.Load() {
			t.Error(err)
		}
	})
	r.source = &Source{
		Version: "v1.2.3", Started: time.Now(), Server: &nbd.Server{},
	}
	r.source.Add(DiskSource{Export: "d", Path: "/srv/d.img", Disk: r.disk, Flush: flush})
	return r
}

// write writes n bytes at off.
func (r *rig) write(t *testing.T, off int64, n int) {
	t.Helper()
	if _, err := r.disk.WriteAt(make([]byte, n), off); err != nil {
		t.Fatal(err)
	}
}

// get asks a handler.
func get(t *testing.T, h http.Handler, path string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(answer)
}
