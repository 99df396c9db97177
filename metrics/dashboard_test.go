package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// dashboard is the Grafana dashboard, as far as it is looked at.
type dashboard struct {
	Panels []struct {
		ID      int    `json:"id"`
		Title   string `json:"title"`
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
}

var (
	metricName  = regexp.MustCompile(`\bjnbd_[a-z0-9_]+`)
	labelsGiven = regexp.MustCompile(`\b([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	labelsBy    = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// TestDashboard: every metric and label that the dashboard asks for exists, with the kind that
// the question needs, and every metric of ours that there is to see is asked for somewhere.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../packaging/grafana/jnbd.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	families := gather(t, newRig(t).source.State)
	labels := map[string]bool{"job": true, "instance": true, "le": true} // Prometheus's own
	for name, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.HasPrefix(name, "jnbd_") {
					labels[l.GetName()] = true
				}
			}
		}
	}
	asked := map[string]bool{}
	check := func(where, expr string) {
		for _, name := range metricName.FindAllString(expr, -1) {
			family := families[name]
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, part); ok && families[base].GetType() == dto.MetricType_HISTOGRAM {
					family, name = families[base], base
				}
			}
			if family == nil {
				t.Errorf("%s asks for %s, which does not exist", where, name)
				continue
			}
			asked[name] = true
			if family.GetType() == dto.MetricType_GAUGE && strings.Contains(expr, "rate("+name) {
				t.Errorf("%s takes the rate of %s, a gauge", where, name)
			}
			if family.GetType() == dto.MetricType_COUNTER && !strings.Contains(expr, "rate("+name) {
				t.Errorf("%s shows %s, a counter, and not its rate", where, name)
			}
		}
		used := []string{}
		for _, m := range labelsGiven.FindAllStringSubmatch(expr, -1) {
			used = append(used, m[1])
		}
		for _, m := range labelsBy.FindAllStringSubmatch(expr, -1) {
			used = append(used, strings.Split(strings.ReplaceAll(m[1], " ", ""), ",")...)
		}
		for _, label := range used {
			if !labels[label] {
				t.Errorf("%s uses the label %q, which no metric has", where, label)
			}
		}
	}
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d (%q): its id is taken, or it has no title or no question", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
		for _, other := range d.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %s and %s lie on each other", p.Title, other.Title)
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %s is beyond the right edge", p.Title)
		}
	}
	for _, v := range d.Templating.List {
		query, err := json.Marshal(v.Query)
		if err != nil {
			t.Fatal(err)
		}
		if unescaped := strings.ReplaceAll(string(query), `\"`, `"`); !strings.HasPrefix(unescaped, `"prometheus`) {
			check("variable "+v.Name, unescaped)
		}
	}
	// Not drawn: what is told otherwise, or is no figure.
	for _, name := range []string{
		"jnbd_disk_size_bytes", "jnbd_barrier_seq", "jnbd_barrier_timestamp_seconds", "jnbd_checkpoints_total", "jnbd_flushes_total",
		"jnbd_connections_accepted_total", "jnbd_requests_total", "jnbd_write_amplification_ratio",
	} {
		asked[name] = true
	}
	for name := range families {
		if strings.HasPrefix(name, "jnbd_") && !asked[name] {
			t.Errorf("nothing shows %s", name)
		}
	}
}
