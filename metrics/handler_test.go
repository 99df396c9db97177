package metrics

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// A disk that is poisoned is not healthy, and the answer says why.
func TestHealth(t *testing.T) {
	r := newRig(t)
	h := Handler(r.source)
	if code, body := get(t, h, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthy: %d %q", code, body)
	}
	r.journal.broken.Store(true)
	if _, err := r.disk.WriteAt([]byte("lost"), 0); err == nil {
		t.Fatal("a write to a broken journal succeeded")
	}
	code, body := get(t, h, "/healthz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "d is poisoned") || !strings.Contains(body, errBroken.Error()) {
		t.Errorf("poisoned: %d %q", code, body)
	}
	if _, body := get(t, h, "/metrics"); !strings.Contains(body, `jnbd_poisoned{export="d"} 1`) {
		t.Error("the metrics don't say that it is poisoned")
	}
}

// What is told in JSON is what the disk counts.
func TestLive(t *testing.T) {
	r := newRig(t)
	r.write(t, 0, 4096)      // the log
	r.write(t, 1<<20, 1<<20) // bulk, home
	r.write(t, 1<<20, 1<<20) // again: spare
	if err := r.disk.Sync(); err != nil {
		t.Fatal(err)
	}
	_, body := get(t, ForDisk(r.source, "d"), livePath)
	var st State
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if st.Version != "v1.2.3" || st.Export != "d" || len(st.Disks) != 1 {
		t.Fatalf("state %s", body)
	}
	d := st.ByExport("d")
	if d.Path != "/srv/d.img" || d.Mode != "auto" || d.SizeBytes != 16<<20 || d.Poisoned != "" {
		t.Errorf("disk %+v", d)
	}
	if d.Spare.DisplacedBlocks != 256 || d.Spare.DisplacedBytes != 1<<20 || d.Spare.UsedBytes < 1<<20 {
		t.Errorf("spare %+v, want 256 blocks displaced", d.Spare)
	}
	b := d.Bytes
	if b.ClientWritten != 2<<20+4096 || b.InPlace != 1<<20 || b.Spare != 1<<20 || b.Log < 4096 || b.State == 0 {
		t.Errorf("bytes %+v", b)
	}
	if want := float64(b.Host()) / float64(b.ClientWritten); b.Amplification != want || want < 1 {
		t.Errorf("write amplification %v, want %v", b.Amplification, want)
	}
	if d.Flush.Count == 0 || d.Flush.Count > d.Log.Flushes {
		t.Errorf("%d flushes timed, of %d", d.Flush.Count, d.Log.Flushes)
	}
	if d.Log.BarrierSeq == 0 || d.Log.BarrierTime == nil || d.Log.UsedBytes != d.Log.Head-d.Log.Tail || d.Log.NotHomeBytes != 4096 {
		t.Errorf("log %+v", d.Log)
	}
	if st.ByExport("other") != nil {
		t.Error("there is an export that nobody has")
	}
}
