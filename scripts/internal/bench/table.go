package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// report collects what was measured: lines for the terminal as they come, and the same as
// Markdown for the end.
type report struct {
	markdown strings.Builder
	missed   int
}

// begin says what was measured, and on what.
func (r *report) begin(c *config) {
	r.say("%d rounds in turns, disks of %s\n", c.rounds, c.disk)
	for _, v := range c.versions() {
		r.say("- %s", v)
	}
}

// say adds a line.
func (r *report) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Println(line)
	r.markdown.WriteString(line + "\n")
}

// table adds rows under a head.
func (r *report) table(head []string, rows [][]string) {
	r.say("")
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	line := func(row []string) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cell + strings.Repeat(" ", width[i]-len([]rune(cell)))
		}
		r.say("| %s |", strings.Join(cells, " | "))
	}
	line(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = strings.Repeat("-", width[i])
	}
	line(rule)
	for _, row := range rows {
		line(row)
	}
}

// addRace tells of a race: every server's figures, then the ratios that are wanted.
func (r *report) addRace(w *workload, results map[key][]result) {
	r.say("\n## %s\n\n%s.", w.name, w.about)
	var rows [][]string
	for _, p := range w.race.passes {
		if p.name == "" {
			continue
		}
		for _, s := range w.race.servers {
			all, floor := results[key{s, p.name}], results[key{nullServer, p.name}]
			rows = append(rows, append([]string{p.name, string(s)}, figures(all, floor, p.bulk)...))
		}
	}
	r.table([]string{
		"pass", "server", "speed", "of the floor", "p50 µs", "p99 µs", "p99.9 µs",
		"server CPU µs/request, user + system", "client CPU µs/request", "host bytes per byte", "peak MiB",
	}, rows)
	rows = nil
	for _, want := range w.race.wants {
		rows = append(rows, r.judge(w, &want, results))
	}
	if len(rows) > 0 {
		r.table([]string{"pass", "figure", "of", "to", "median ratio", "spread", "wanted", ""}, rows)
	}
	r.sayIfNotLasting(results)
}

// none stands for a figure that there is not.
const none = "–"

// figures are the cells of one server in one pass.
func figures(all, floor []result, bulk bool) []string {
	micros := func(of func(result) time.Duration) string {
		m := median(all, func(x result) float64 { return float64(of(x)) })
		if m == 0 {
			return none // a client that does not tell
		}
		return fmt.Sprintf("%.0f", m/1e3)
	}
	both := func(of func(result) cpu) string {
		user := median(all, func(x result) float64 { return x.perRequest(of(x).user) })
		system := median(all, func(x result) float64 { return x.perRequest(of(x).system) })
		return fmt.Sprintf("%.2f + %.2f", user, system)
	}
	speed := fmt.Sprintf("%.0f/s", median(all, func(x result) float64 { return x.rate }))
	if bulk {
		speed = fmt.Sprintf("%.0f MB/s", median(all, func(x result) float64 { return x.bytes / x.took.Seconds() / 1e6 }))
	}
	perByte := none
	if len(all) > 0 && all[0].bytes > 0 {
		perByte = fmt.Sprintf("%.2f", median(all, func(x result) float64 { return x.bytesOnHost / x.bytes }))
	}
	share := none
	if len(floor) == len(all) {
		ratios := make([]float64, len(all))
		for i := range all {
			ratios[i] = all[i].rate / floor[i].rate
		}
		share = fmt.Sprintf("%.2f", median(ratios, func(x float64) float64 { return x }))
	}
	return []string{
		speed, share,
		micros(func(x result) time.Duration { return x.p50 }),
		micros(func(x result) time.Duration { return x.p99 }),
		micros(func(x result) time.Duration { return x.p999 }),
		both(func(x result) cpu { return x.server }),
		both(func(x result) cpu { return x.client }),
		perByte,
		fmt.Sprintf("%.0f", median(all, func(x result) float64 { return x.peak / (1 << 20) })),
	}
}

// sayIfNotLasting warns of a log that was to last and did not.
func (r *report) sayIfNotLasting(results map[key][]result) {
	for key, all := range results {
		n := 0
		for _, x := range all {
			n += x.checkpoints
		}
		if key.server == jnbdLasting && n > 0 {
			r.say("\n%d checkpoints began while %s was measured: its log did not last.", n, key.server)
		}
	}
}

// judge is the row of one want.
func (r *report) judge(w *workload, want *want, results map[key][]result) []string {
	peers := want.peers
	name := ""
	if len(peers) == 0 && !want.absolute {
		for _, s := range w.race.servers {
			if s.isPeer() {
				peers = append(peers, s)
			}
		}
	}
	switch {
	case want.absolute:
		name = "itself"
	case len(peers) == 1:
		name = string(peers[0])
	default:
		name = "the best peer"
	}
	ours := results[key{want.ours, want.pass}]
	ratios := make([]float64, len(ours))
	for i := range ours {
		if want.absolute {
			ratios[i] = ours[i].of(want.figure)
			continue
		}
		var best float64
		for k, s := range peers {
			x := results[key{s, want.pass}][i].of(want.figure)
			if k == 0 || (x > best) == (want.figure == rate) {
				best = x
			}
		}
		ratios[i] = ours[i].of(want.figure) / best
	}
	return append([]string{want.pass, string(want.figure), string(want.ours), name}, r.verdict(ratios, want)...)
}

// verdict is what ratios of rounds come to.
func (r *report) verdict(ratios []float64, want *want) []string {
	m := median(ratios, func(x float64) float64 { return x })
	word := "ok"
	if want.String() == "" {
		word = none
	}
	if want.atLeast > 0 && m < want.atLeast || want.atMost > 0 && m > want.atMost {
		word = "missed"
		r.missed++
	}
	return []string{fmt.Sprintf("%.2f", m), fmt.Sprintf("%.2f–%.2f", slices.Min(ratios), slices.Max(ratios)), want.String(), word}
}

// save writes the Markdown.
func (r *report) save(path string) error {
	head := "# How fast jnbd is\n\nWritten by `scripts/bench -o FILE`; `scripts/bench -h` has the flags, `-list` the workloads.\nRatios are medians over rounds of the ratio within a round, and their spread.\n\n"
	return os.WriteFile(path, []byte(head+r.markdown.String()), 0o644)
}

// median is robust against the round in which the machine did something else.
func median[T any](all []T, of func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, x := range all {
		values[i] = of(x)
	}
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}
