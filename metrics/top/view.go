package top

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"jnbd/metrics"
	"jnbd/metrics/human"
)

// View is what is drawn: one disk, now and a moment before.
type View struct {
	Now     *metrics.State
	Earlier *metrics.State // nil: rates are those since the start
	Export  string
	History *History // nil: no curves
	Width   int      // columns; at least 60 are drawn
	Color   bool
}

const leastWidth = 60

// Styles of ECMA-48, as every terminal knows them.
const (
	plain  = ""
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	yellow = "33"
	green  = "32"
)

// paint puts a style around text.
func (v *View) paint(style, text string) string {
	if !v.Color || style == plain {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// Lines is the picture, top down.
func (v *View) Lines() []string {
	width := max(v.Width, leastWidth) - 2
	d := v.Now.ByExport(v.Export)
	if d == nil {
		return []string{fmt.Sprintf(" the server has no export %q any more", v.Export)}
	}
	rates := Between(v.Earlier, v.Now, v.Export)
	lines := []string{v.title(d, width), ""}
	if d.Poisoned != "" {
		lines = append(lines, v.paint(red, clip("POISONED, restart jnbd to recover: "+d.Poisoned, width)), "")
	}
	if d.HostFull != "" {
		lines = append(lines, v.paint(red, clip("THE HOST IS FULL, make room on it: "+d.HostFull, width)), "")
	}
	lines = append(lines, v.log(d, width)...)
	lines = append(lines, "")
	if d.Spare.SizeBytes > 0 {
		lines = append(lines, v.spare(d, width), "")
	}
	lines = append(lines, v.bytes(d, &rates, width)...)
	lines = append(lines, "")
	lines = append(lines, v.commands(&rates)...)
	for i := range lines {
		lines[i] = strings.TrimRight(" "+lines[i], " ")
	}
	return lines
}

// title says which disk it is.
func (v *View) title(d *metrics.Disk, width int) string {
	mode := d.Mode
	if d.ReadOnly {
		mode += ", read-only"
	}
	left := fmt.Sprintf("%s  %s  %s  %s  up %s", d.Export, human.Size(d.SizeBytes), mode,
		plural(d.Connections, "client"), human.Age(v.Now.Time.Sub(v.Now.Started)))
	right := v.Now.Time.Format(time.TimeOnly) + " UTC"
	gap := max(2, width-utf8.RuneCountInString(left)-len(right))
	return v.paint(bold, left) + strings.Repeat(" ", gap) + v.paint(dim, right)
}

// log is how full the log is, and its ring.
func (v *View) log(d *metrics.Disk, width int) []string {
	l := &d.Log
	fill := ratio(l.UsedBytes, l.SizeBytes)
	style := green
	switch {
	case fill >= 0.75: // writers are held back from here on
		style = red
	case fill >= 0.5: // checkpoints run from here on
		style = yellow
	}
	barrier := "none yet"
	if l.BarrierTime != nil {
		barrier = fmt.Sprintf("%d, %s ago", l.BarrierSeq, human.Age(v.Now.Time.Sub(*l.BarrierTime)))
	}
	r := newRing(l, width)
	return []string{
		fmt.Sprintf("log %s of %s   not home %s   lag %s   barrier %s", v.paint(style, fmt.Sprintf("%.0f%%", 100*fill)),
			human.Size(l.SizeBytes), human.Size(l.NotHomeBytes),
			human.Duration(time.Duration(l.LagSeconds*float64(time.Second))), barrier),
		r.String(),
		v.paint(dim, r.marks()),
		v.paint(dim, "▒ durable  █ not yet  ░ on its way home    T tail  H head  ╵ barrier"),
	}
}

// spare is the write-once side.
func (v *View) spare(d *metrics.Disk, width int) string {
	text := fmt.Sprintf("spare %.0f%% of %s   displaced %s ", 100*ratio(d.Spare.UsedBytes, d.Spare.SizeBytes),
		human.Size(d.Spare.SizeBytes), human.Size(d.Spare.DisplacedBytes))
	room := max(0, width-utf8.RuneCountInString(text)-2)
	full := int(ratio(d.Spare.UsedBytes, d.Spare.SizeBytes)*float64(room) + 0.5)
	return text + "[" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "]"
}

// bytes is how much goes in and out.
func (v *View) bytes(d *metrics.Disk, r *Rates, width int) []string {
	amplification := ""
	if r.Amplification > 0 {
		amplification = fmt.Sprintf("× %.2f", r.Amplification)
	}
	if d.Bytes.Amplification > 0 {
		amplification += fmt.Sprintf(" (%.2f since the start)", d.Bytes.Amplification)
	}
	line := func(name string, rate float64, curve []float64, note string) string {
		text := fmt.Sprintf("%-14s %14s  ", name, human.Rate(rate))
		room := width - utf8.RuneCountInString(text) - utf8.RuneCountInString(note) - 2
		return text + v.paint(green, spark(curve, room)) + "  " + note
	}
	h := v.History
	if h == nil {
		h = &History{}
	}
	return []string{
		line("clients read", r.Read, h.read, ""),
		line("clients wrote", r.Written, h.written, ""),
		line("host got", r.Host, h.host, strings.TrimSpace(amplification)),
	}
}

// commands is a line for each kind of request that came.
func (v *View) commands(r *Rates) []string {
	lines := []string{v.paint(dim, fmt.Sprintf("%-14s %14s %10s %10s %10s", "", "a second", "p50", "p99", "max"))}
	for _, c := range append(r.Commands, r.Flush) {
		if c.PerSecond == 0 {
			continue
		}
		lines = append(lines, fmt.Sprintf("%-14s %14s %10s %10s %10s", c.Name, human.Count(c.PerSecond),
			human.Duration(c.P50), human.Duration(c.P99), human.Duration(c.Max)))
	}
	if len(lines) == 1 {
		lines = append(lines, v.paint(dim, "no requests"))
	}
	return lines
}

// History is the rates of the last moments.
type History struct{ read, written, host []float64 }

const historyLength = 200 // more than a terminal is wide

// Add adds the newest rates.
func (h *History) Add(r *Rates) {
	for _, curve := range []struct {
		of    *[]float64
		value float64
	}{{&h.read, r.Read}, {&h.written, r.Written}, {&h.host, r.Host}} {
		*curve.of = append(*curve.of, curve.value)
		if n := len(*curve.of); n > historyLength {
			*curve.of = append((*curve.of)[:0], (*curve.of)[n-historyLength:]...)
		}
	}
}

// spark is the end of a curve in at most n characters, drawn against its own highest point.
func spark(curve []float64, n int) string {
	curve = curve[max(0, len(curve)-max(0, n)):]
	highest := 0.0
	for _, value := range curve {
		highest = max(highest, value)
	}
	out := make([]rune, len(curve))
	for i, value := range curve {
		out[i] = ' '
		if value > 0 {
			out[i] = []rune("▁▂▃▄▅▆▇█")[min(7, int(value/highest*8))]
		}
	}
	return string(out)
}

func ratio(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(part)/float64(whole)))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clip is text in at most n characters.
func clip(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}
