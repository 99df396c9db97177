package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// series is what one server did, second by second.
type series struct {
	name string
	line []second
}

// The picture: two panels with a common axis of time, requests a second above, latencies on a
// logarithmic scale below.
const (
	pictureWidth, pictureHeight = 860, 560
	panelLeft, panelWidth       = 70, 640
	panelHeight                 = 200
	rateTop, latencyTop         = 50, 300
)

var seriesColors = []string{"#1f6feb", "#d9730d"}

// picture is an SVG that is being written.
type picture struct{ bytes.Buffer }

func (p *picture) add(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y int, anchor, words string) {
	p.add(`<text x="%d" y="%d" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(words))
}

// path draws one value for each second.
func (p *picture) path(n int, color, dash string, y func(i int) float64) {
	p.add(`<path fill="none" stroke="%s" stroke-width="1.5" stroke-dasharray="%s" d="`, color, dash)
	for i := range n {
		letter := "L"
		if i == 0 {
			letter = "M"
		}
		p.add("%s%.1f %.1f", letter, panelLeft+float64(panelWidth)*float64(i)/float64(max(n-1, 1)), y(i))
	}
	p.add(`"/>`)
}

// level is a line across a panel with its value at the left.
func (p *picture) level(y float64, words string) {
	p.add(`<path stroke="#ddd" d="M%d %.1fH%d"/>`, panelLeft, y, panelLeft+panelWidth)
	p.text(panelLeft-6, int(y)+4, "end", words)
}

// drawSeconds draws the series into one picture.
func drawSeconds(title string, all ...series) []byte {
	var p picture
	p.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`, pictureWidth, pictureHeight)
	p.add(`<rect width="100%%" height="100%%" fill="white"/>`)
	p.add(`<text x="%d" y="22" font-size="15">%s</text>`, panelLeft, html.EscapeString(title))
	seconds, top, least, most := bounds(all)
	p.text(panelLeft, rateTop-8, "start", "requests a second")
	atRate := func(v float64) float64 { return rateTop + panelHeight*(1-v/top) }
	for i := range 5 {
		v := top * float64(i) / 4
		p.level(atRate(v), fmt.Sprintf("%.0f", v))
	}
	p.text(panelLeft, latencyTop-8, "start", "latency: p50 dotted, p99 dashed, p99.9 solid")
	atTime := func(ns float64) float64 {
		return latencyTop + panelHeight*(1-(math.Log10(max(ns, least))-math.Log10(least))/(math.Log10(most)-math.Log10(least)))
	}
	for ns := least; ns <= most; ns *= 10 {
		p.level(atTime(ns), micros(ns))
	}
	for k, s := range all {
		color := seriesColors[k%len(seriesColors)]
		p.path(len(s.line), color, "", func(i int) float64 { return atRate(s.line[i].rate) })
		p.path(len(s.line), color, "1 3", func(i int) float64 { return atTime(float64(s.line[i].p50)) })
		p.path(len(s.line), color, "5 3", func(i int) float64 { return atTime(float64(s.line[i].p99)) })
		p.path(len(s.line), color, "", func(i int) float64 { return atTime(float64(s.line[i].p999)) })
		p.add(`<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`, panelLeft+panelWidth+16, rateTop+k*22, color)
		p.text(panelLeft+panelWidth+34, rateTop+k*22+11, "start", s.name)
	}
	p.text(panelLeft, latencyTop+panelHeight+20, "start", "0 s")
	p.text(panelLeft+panelWidth, latencyTop+panelHeight+20, "end", fmt.Sprintf("%d s", seconds))
	p.add(`</svg>`)
	return p.Bytes()
}

// bounds are the ends of the axes: of the rate a round number above, of latencies powers of ten.
func bounds(all []series) (seconds int, top, least, most float64) {
	least, most = math.Inf(1), 0
	for _, s := range all {
		seconds = max(seconds, len(s.line))
		for _, x := range s.line {
			top = max(top, x.rate)
			least = min(least, max(float64(x.p50), 1000))
			most = max(most, float64(x.p999), 10_000)
		}
	}
	if seconds == 0 {
		least = 1000
	}
	step := math.Pow(10, math.Floor(math.Log10(max(top, 1))))
	return seconds, math.Ceil(max(top, 1)/step) * step,
		math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Ceil(math.Log10(max(most, 10_000))))
}

// micros is a time in the unit that suits it.
func micros(ns float64) string {
	switch {
	case ns >= 1e9:
		return fmt.Sprintf("%.0f s", ns/1e9)
	case ns >= 1e6:
		return fmt.Sprintf("%.0f ms", ns/1e6)
	}
	return fmt.Sprintf("%.0f µs", ns/1e3)
}
