package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// The picture is well-formed, whatever was measured, and nothing lies outside of its panels.
func TestDrawSeconds(t *testing.T) {
	line := func(n int, rate float64, p999 time.Duration) []second {
		var all []second
		for range n {
			all = append(all, second{rate, p999 / 100, p999 / 10, p999})
		}
		return all
	}
	for name, all := range map[string][]series{
		"two":           {{"jnbd <auto>", line(300, 70_123, 3*time.Millisecond)}, {"peer", line(300, 3, 20*time.Second)}},
		"a second":      {{"jnbd", line(1, 1, 1)}},
		"nothing":       {{"jnbd", nil}},
		"never a reply": {{"jnbd", make([]second, 10)}},
	} {
		t.Run(name, func(t *testing.T) {
			text := string(drawSeconds("a & b", all...))
			for d := xml.NewDecoder(strings.NewReader(text)); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
			}
			for _, bad := range []string{"NaN", "Inf", " -"} {
				if strings.Contains(text, bad) {
					t.Errorf("the picture holds %q:\n%s", bad, text)
				}
			}
		})
	}
}
