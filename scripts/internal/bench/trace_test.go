package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"slices"
	"testing"

	"jnbd/nbd/nbdclient"
)

func zipped(t *testing.T, text string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestReadTrace(t *testing.T) {
	got, err := readTrace(zipped(t, "jnbd-trace-1 8192\nw 8 2 0\nW 0 1 1\nf 0 0 0\nr 0 1 0\nt 0 16 1\nz 1 1 0\n"))
	want := []request{
		{command: nbdclient.Write, offset: 4096, length: 1024},
		{command: nbdclient.Write, length: 512, fua: true},
		{command: nbdclient.Flush, after: 2},
		{command: nbdclient.Read, length: 512, after: 3},
		{command: nbdclient.Trim, length: 8192, after: 3},
		{command: nbdclient.Zero, offset: 512, length: 512, after: 5},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
	for _, bad := range []string{
		"", "jnbd-trace-2 8192\n", "jnbd-trace-1 99999999999\n", "jnbd-trace-1 8192\nw 8\n", "jnbd-trace-1 8192\nx 0 1 0\n",
		"jnbd-trace-1 8192\nw 16 1 0\n", "jnbd-trace-1 8192\nw 0 0 0\n", "jnbd-trace-1 8192\nw 0 1 1\n",
	} {
		if _, err := readTrace(zipped(t, bad)); err == nil {
			t.Errorf("%q is a trace", bad)
		}
	}
}

// The trace in the tree is of a whole build: it writes, flushes, and waits in between.
func TestRecordedTrace(t *testing.T) {
	f, err := os.Open("testdata/untar-build.trace.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := readTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	var written, flushes int
	for _, r := range all {
		switch r.command {
		case nbdclient.Write:
			written += r.length
		case nbdclient.Flush:
			flushes++
		}
	}
	if written < 256<<20 || flushes < 50 {
		t.Errorf("%d requests write %d bytes with %d flushes", len(all), written, flushes)
	}
}
