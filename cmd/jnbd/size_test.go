package main

import (
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, test := range []struct {
		text  string
		want  int64
		wrong string // part of the error
	}{
		{text: "0", want: 0},
		{text: "1", want: 1},
		{text: "512", want: 512},
		{text: "4K", want: 4096},
		{text: "4k", want: 4096},
		{text: "256M", want: 256 << 20},
		{text: "10G", want: 10 << 30},
		{text: "2T", want: 2 << 40},
		{text: "9223372036854775807", want: math.MaxInt64},
		{text: "", wrong: "empty"},
		{text: "M", wrong: "whole number"},
		{text: "10MB", wrong: "MB and MiB are not used"},
		{text: "10MiB", wrong: "MB and MiB are not used"},
		{text: "10B", wrong: "MB and MiB are not used"},
		{text: "1.5G", wrong: "fraction"},
		{text: "1,5G", wrong: "fraction"},
		{text: "-1G", wrong: "negative"},
		{text: "+1G", wrong: "whole number"},
		{text: "1e9", wrong: "whole number"},
		{text: "0x10", wrong: "whole number"},
		{text: "1 G", wrong: "whole number"},
		{text: "10P", wrong: "whole number"},
		{text: "8388608T", wrong: "too large"},
		{text: "9223372036854775808", wrong: "whole number"},
	} {
		got, err := parseSize(test.text)
		switch {
		case test.wrong == "" && (err != nil || got != test.want):
			t.Errorf("parseSize(%q) = %d, %v, want %d", test.text, got, err, test.want)
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("parseSize(%q) = %d, %v, want an error with %q", test.text, got, err, test.wrong)
		}
	}
}

// FuzzParseSize: what is accepted is never negative, and formatSize writes it back.
func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"0", "10G", "1.5G", "10MB", "8388607T", "9223372036854775807", "K"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bytes, err := parseSize(text)
		if err != nil {
			return
		}
		if bytes < 0 {
			t.Fatalf("parseSize(%q) = %d", text, bytes)
		}
		if again, err := parseSize(formatSize(bytes)); err != nil || again != bytes {
			t.Fatalf("parseSize(formatSize(%d)) = %d, %v", bytes, again, err)
		}
	})
}

func TestHumanSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 5 << 40: "5.0 TiB", 5 << 50: "5120.0 TiB",
	} {
		if got := humanSize(bytes); got != want {
			t.Errorf("humanSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}
