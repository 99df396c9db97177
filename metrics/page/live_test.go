package page_test

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/metrics"
	"jnbd/nbd"
)

// TestLive: the page of a real source, whose disk is written all the while, shows that.
func TestLive(t *testing.T) {
	format := journal.FormatOptions{DiskBytes: 16 << 20, JournalBytes: journal.MinJournalBytes, Mode: jsuper.Auto}
	parts := journal.Parts{
		Backing: disk.NewMem(format.DiskBytes), Journal: disk.NewMem(journal.JournalSize(format)), Placement: jsuper.Beside,
	}
	if _, err := journal.Format(parts, format); err != nil {
		t.Fatal(err)
	}
	flush := &nbd.Latency{}
	d, err := journal.Open(parts, journal.Options{OnFlush: func(took time.Duration) { flush.Observe(took, 1) }})
	if err != nil {
		t.Fatal(err)
	}
	source := &metrics.Source{Version: "v0.0.1", Started: time.Now(), Server: &nbd.Server{}}
	source.Add(metrics.DiskSource{Export: "live.img", Path: "live.img", Disk: d, Flush: flush})
	server := httptest.NewServer(metrics.Handler(source))
	defer server.Close()

	ctx, stop := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() { // ends with ctx
		payload := make([]byte, 4096)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := int64(0); ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := d.WriteAt(payload, i%4096*4096)
			if err == nil && i%50 == 0 {
				err = d.Sync()
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer func() {
		stop()
		writer.Wait()
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()

	b := startBrowser(t)
	b.open(server.URL, 1280, 900)
	b.await("document.body && document.body.dataset.samples >= 2")
	b.await(`/^clients write\n[1-9]/.test(document.getElementById("tiles").innerText)`)
	b.await(`document.getElementById("commands").innerText.includes("log flush")`)
	b.await(`document.getElementById("health").textContent === "healthy"`)
	server.CloseClientConnections()
	server.Listener.Close()
	b.await(`document.getElementById("health").textContent === "no answer"`)
}
