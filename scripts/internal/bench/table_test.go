package main

import (
	"regexp"
	"slices"
	"testing"
)

// Every race can be judged: what is wanted is of a server and a pass that it has.
func TestWorkloadsAreWhole(t *testing.T) {
	names := map[string]bool{}
	for _, w := range workloads() {
		if names[w.name] {
			t.Errorf("two workloads are called %s", w.name)
		}
		names[w.name] = true
		if err := w.race.validate(); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		for _, want := range w.race.wants {
			if !slices.Contains(w.race.servers, want.ours) {
				t.Errorf("%s: a figure is wanted of %s, which does not run", w.name, want.ours)
			}
		}
	}
}

// -only leaves servers out, and what is wanted of them; -before adds the other build of each of ours.
func TestAmong(t *testing.T) {
	const bestPeer server = ""
	for _, c := range []struct {
		only, before string
		servers      []server
		comparedWith []server
	}{
		{"", "", slices.Concat([]server{jnbdAuto}, peers, []server{nullServer}), []server{bestPeer}},
		{"auto|nbdkit", "", []server{jnbdAuto, nbdkitFile}, []server{bestPeer}},
		{"auto", "", []server{jnbdAuto}, nil},
		{"nbdkit", "", []server{nbdkitFile}, nil},
		{"auto", "other", []server{jnbdAuto, jnbdAuto + otherOne}, []server{jnbdAuto + otherOne}},
		{"auto|nbdkit", "other", []server{jnbdAuto, jnbdAuto + otherOne, nbdkitFile}, []server{jnbdAuto + otherOne, bestPeer}},
		{"before", "other", []server{jnbdAuto + otherOne}, nil},
	} {
		w := against("x", "x", 2, nil, jnbdAuto)
		r := w.race.among(&config{only: regexp.MustCompile(c.only), before: c.before})
		if !slices.Equal(r.servers, c.servers) {
			t.Errorf("-only %q -before %q: servers %q, want %q", c.only, c.before, r.servers, c.servers)
		}
		var comparedWith []server
		for _, want := range r.wants {
			comparedWith = append(comparedWith, append(want.peers, bestPeer)[0])
		}
		if !slices.Equal(comparedWith, c.comparedWith) {
			t.Errorf("-only %q -before %q: compared with %q, want %q", c.only, c.before, comparedWith, c.comparedWith)
		}
	}
}

// The best peer is the best of its round, the floor is not a peer, and the median is of ratios.
func TestJudge(t *testing.T) {
	w := against("x", "x", 2, nil, jnbdAuto)
	rates := map[server][]float64{
		jnbdAuto: {20, 20, 90}, nullServer: {99, 99, 99},
		nbdkitFile: {10, 5, 30}, qemuRaw: {5, 10, 1}, qemuQcow2: {1, 1, 1}, nbdServer: {2, 2, 2},
	}
	results := map[key][]result{}
	for s, all := range rates {
		for _, rate := range all {
			results[key{s, steady}] = append(results[key{s, steady}], result{rate: rate, requests: 1})
		}
	}
	var r report
	row := r.judge(&w, &w.race.wants[0], results)
	want := []string{steady, "requests/s", "jnbd auto", "the best peer", "2.00", "2.00–3.00", "≥ 2.00", "ok"}
	if !slices.Equal(row, want) {
		t.Errorf("got %q\nwant %q", row, want)
	}
	results[key{jnbdAuto, steady}][1].rate = 19
	results[key{jnbdAuto, steady}][2].rate = 30
	if row := r.judge(&w, &w.race.wants[0], results); row[7] != "missed" || r.missed != 1 {
		t.Errorf("a median of %s is %s, %d in all", row[4], row[7], r.missed)
	}
	if cells := figures(results[key{nbdkitFile, steady}], results[key{nullServer, steady}], false); cells[1] != "0.10" {
		t.Errorf("of the floor: %s, want 0.10", cells[1])
	}
}
