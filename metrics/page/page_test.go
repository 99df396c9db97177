package page_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"jnbd/metrics"
	"jnbd/metrics/page"
)

// story is a server whose states tell of a busy disk: each is a second after the one before.
type story struct {
	mu       sync.Mutex
	second   int
	poisoned string
	counts   map[string]*[8]int // of each histogram, in hundredths
}

// bounds are the counts of a histogram.
func (s *story) bounds(name string) *[8]int {
	if s.counts == nil {
		s.counts = map[string]*[8]int{}
	}
	if s.counts[name] == nil {
		s.counts[name] = &[8]int{}
	}
	return s.counts[name]
}

// state is the JSON of the next second. TestStoryIsState holds it against metrics.State.
func (s *story) state() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.second++
	n := float64(s.second)
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	at := func(seconds float64) string {
		return start.Add(time.Duration(seconds * float64(time.Second))).Format(time.RFC3339Nano)
	}
	const MiB = 1 << 20
	// So much by second n: a steady stream with waves on it.
	sum := func(rate, wave, period float64) int64 {
		return int64(MiB * (rate*n - wave*period/(2*math.Pi)*math.Cos(2*math.Pi*n/period)))
	}
	written, read := sum(120, 60, 47)+600*MiB, sum(45, 30, 31)+600*MiB
	head := written/2 + 900*MiB
	used := int64(MiB * (118 + 55*math.Sin(n/17)))
	// Of each kind 97 of 100 are quick; the others take longer as the load waves.
	histogram := func(name string, rate, micros float64) map[string]any {
		bounds := s.bounds(name)
		bounds[0] += int(rate * 97)
		bounds[3+int(2.5+2.4*math.Sin(n/19+micros))] += int(rate * 3)
		count, buckets := 0, []map[string]any{}
		for i, n := range bounds {
			if n > 0 {
				buckets = append(buckets, map[string]any{"bound_seconds": micros * math.Pow(1.6, float64(i)) / 1e6, "n": n / 100})
				count += n / 100
			}
		}
		return map[string]any{"count": count, "sum_seconds": 1, "buckets": buckets}
	}
	command := func(name string, rate, micros float64) map[string]any {
		c := histogram(name, rate, micros)
		c["command"], _, _ = strings.Cut(name, " ")
		return c
	}
	var barriers []int64
	for pos := head - used; pos < head-8*MiB; pos += 11 * MiB {
		barriers = append(barriers, pos)
	}
	disk := func(export string) map[string]any {
		return map[string]any{
			"export": export, "disk": "/srv/" + export, "uuid": "u", "mode": "auto", "size_bytes": 100 << 30, "read_only": false,
			"poisoned": s.poisoned, "host_full": "", "connections": 2, "requests": int(9000 * n), "failed": 0, "dropped": 0,
			"log": map[string]any{
				"size_bytes": 254 * MiB, "used_bytes": used, "tail": head - used, "head": head, "durable_up_to": head - 8*MiB,
				"next_seq": 5000, "epoch": "e", "barrier_seq": int(4000 + n), "barrier_time": at(n - 2), "barriers": barriers,
				"moving_to": head - used + 31*MiB, "not_home_bytes": used - 10*MiB, "not_home_extents": 100, "flushes": 1, "checkpoints": 1, "lag_seconds": 3.4,
			},
			"spare": map[string]any{"size_bytes": 25 << 30, "used_bytes": int64(MiB * (4000 + 20*n)), "displaced_blocks": 1, "displaced_bytes": int64(MiB * (3900 + 20*n))},
			"bytes": map[string]any{
				"client_read_bytes": read, "client_written_bytes": written, "log_bytes": written / 4, "home_bytes": written / 5,
				"in_place_bytes": written / 4, "spare_bytes": written / 2, "state_bytes": 0, "write_amplification": 1.2,
			},
			"commands": []map[string]any{command("read "+export, 2800, 60), command("write "+export, 6100, 90), command("flush "+export, 40, 900), command("trim "+export, 0, 1)},
			"flush":    histogram("log flush "+export, 55, 800),
		}
	}
	return map[string]any{
		"time": at(n), "version": "v1.0.0", "pid": 7, "started": at(-4000), "connections": 2, "connections_max": 1024, "connections_total": 9, "connections_refused": 0,
		"buffer_bytes": 0, "disks": []map[string]any{disk("db.img"), disk("vm.img")},
	}
}

// TestStoryIsState: what the story tells, and so what the page reads, is what servers tell.
func TestStoryIsState(t *testing.T) {
	told, err := json.Marshal((&story{}).state())
	if err != nil {
		t.Fatal(err)
	}
	st := metrics.State{}
	strict := json.NewDecoder(bytes.NewReader(told))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&st); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(told, &want), json.Unmarshal(again, &got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a story and a server's state differ:\n%s", diff)
	}
}

// serveStory serves page and states.
func serveStory(t *testing.T, s *story) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", page.Handler())
	mux.HandleFunc("/live.json", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(s.state()); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// hurry makes the page ask without a pause, from its first second on.
const hurry = `(() => { const later = window.setTimeout; window.setTimeout = (f, ms) => later(f, ms === 1000 ? 0 : ms); })()`

// TestPage: what the page shows is what the states say, and it needs nothing from elsewhere.
// With JNBD_PICTURES=DIR it leaves the pictures there.
func TestPage(t *testing.T) {
	s := &story{}
	url := serveStory(t, s)
	b := startBrowser(t)
	b.do("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": hurry}, nil)
	for _, theme := range []string{"light", "dark"} {
		b.prefer(theme)
		b.open(url+"/", 1280, 900)
		b.await("document.body && document.body.dataset.samples >= 150")
		for expression, want := range map[string]string{
			`document.getElementById("health").textContent`: "healthy",
			`document.title`: "db.img – jnbd",
			`document.getElementById("problem").hidden`:                                               "true",
			`document.documentElement.dataset.theme`:                                                  theme,
			`document.querySelectorAll("#tiles .tile").length`:                                        "8",
			`document.querySelectorAll("canvas").length`:                                              "3",
			`document.querySelectorAll("#commands tr").length`:                                        "4",
			`document.querySelectorAll("#ring path.durable").length`:                                  "1",
			`document.querySelectorAll("#ring path.fresh").length`:                                    "1",
			`document.querySelectorAll("#ring path.going").length`:                                    "1",
			`document.querySelectorAll("#ring line.barrier").length > 3`:                              "true",
			`document.documentElement.scrollWidth <= innerWidth`:                                      "true",
			`performance.getEntriesByType("resource").every(r => r.name.startsWith(location.origin))`: "true",
			`/^\d+ %$/.test(document.getElementById("ring-fill").textContent)`:                        "true",
		} {
			if got := b.eval(expression); got != want {
				t.Errorf("%s: %s is %q, want %q", theme, expression, got, want)
			}
		}
		text := b.eval("document.body.innerText")
		for _, part := range []string{"clients write", "× 1.20 since the start", "3.4 s", "of 254 MiB", "log flush", "up 1 h"} {
			if !strings.Contains(strings.ReplaceAll(text, "\u202f", " "), part) {
				t.Errorf("%s: the page does not say %q:\n%s", theme, part, text)
			}
		}
		look(t, b, theme)
	}

	// Another disk is a click away; a poisoned one says so; and a narrow window holds it all.
	b.eval(`document.querySelectorAll("#disks button")[1].click()`)
	b.await(`document.title.startsWith("vm.img")`)
	s.mu.Lock()
	s.poisoned = "flush the log: input/output error"
	s.mu.Unlock()
	b.await(`document.getElementById("health").textContent === "poisoned"`)
	if got := b.eval(`document.getElementById("problem").textContent`); !strings.Contains(got, "input/output error") {
		t.Errorf("of a poisoned disk it says %q", got)
	}
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.await("document.documentElement.scrollWidth <= innerWidth")
	if len(b.complaints) > 0 {
		t.Errorf("the browser complains: %s", b.complaints)
	}
}

// look holds the picture against what must be seen in it: the theme's background, the ring's
// colours and the plots' lines, each in many points.
func look(t *testing.T, b *browser, theme string) {
	t.Helper()
	shot := b.picture()
	if dir := os.Getenv("JNBD_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "status-"+theme+".png"), shot, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	points := map[string]int{}
	area := picture.Bounds()
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			points[hex(picture, x, y)]++
		}
	}
	for name, least := range map[string]int{
		"--page": 50_000, "--card": 300_000, "--durable": 2_000, "--fresh": 200, "--going": 400, "--track": 1_000,
		"--blue": 300, "--green": 300, "--orange": 100, "--purple": 100,
	} {
		colour := b.eval(`getComputedStyle(document.documentElement).getPropertyValue("` + name + `").trim()`)
		if points[colour] < least {
			t.Errorf("%s: %d points are of %s (%s), want %d", theme, points[colour], colour, name, least)
		}
	}
}

func hex(picture image.Image, x, y int) string {
	c := color.NRGBAModel.Convert(picture.At(x, y)).(color.NRGBA)
	return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B)
}
