package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"jnbd/metrics/human"
)

// sizeUnits are the suffixes a size may carry, each 1024 times the one before.
const sizeUnits = "KMGT"

// parseSize reads a size in bytes: a whole number with an optional K, M, G or T, which
// are powers of 1024. MB and MiB are refused rather than guessed at: half of the tools
// take MB for 1000², the other half for 1024².
func parseSize(text string) (int64, error) {
	digits, shift := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte(sizeUnits, upper(text[n-1])); i >= 0 {
			digits, shift = text[:n-1], 10*(i+1)
		}
	}
	switch {
	case text == "":
		return 0, fmt.Errorf("size is empty: give a number with K, M, G or T, like 10G")
	case strings.HasPrefix(text, "-"):
		return 0, fmt.Errorf("size %q is negative", text)
	case strings.HasSuffix(strings.ToUpper(text), "B"):
		return 0, fmt.Errorf("size %q: MB and MiB are not used here; write K, M, G or T alone (powers of 1024), like 10G", text)
	case strings.ContainsAny(digits, ".,"):
		return 0, fmt.Errorf("size %q is a fraction: write a whole number of a smaller unit, like 1536M for 1.5G", text)
	}
	value, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("size %q: want a whole number with K, M, G or T, like 10G", text)
	}
	if value > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %q is too large: the most is %d bytes", text, int64(math.MaxInt64))
	}
	return int64(value << shift), nil
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

// formatSize writes a size as parseSize reads it, exactly, in the largest unit that fits.
func formatSize(bytes int64) string {
	unit := ""
	for i := 0; i < len(sizeUnits) && bytes >= 1024 && bytes%1024 == 0; i++ {
		bytes, unit = bytes/1024, sizeUnits[i:i+1]
	}
	return strconv.FormatInt(bytes, 10) + unit
}

// humanSize writes a size for people: three digits are enough to see how much it is.
func humanSize(bytes int64) string { return human.Size(bytes) }

// sizeFlag is a size on the command line. It satisfies pflag.Value.
type sizeFlag struct {
	bytes int64
	given bool
}

func (f *sizeFlag) String() string {
	if f.bytes == 0 {
		return ""
	}
	return formatSize(f.bytes)
}

func (f *sizeFlag) Set(text string) error {
	bytes, err := parseSize(text)
	if err != nil {
		return err
	}
	f.bytes, f.given = bytes, true
	return nil
}

func (f *sizeFlag) Type() string { return "SIZE" }
