package main

import (
	"context"
	"errors"
	"fmt"

	"jnbd/jsuper"
	"jnbd/metrics"
	"jnbd/metrics/human"
)

// askControl asks the server of a disk about it. Both results are nil if none answers, or if
// one answers for another disk: a file may have taken the place of the one that it serves.
func askControl(ctx context.Context, at place, super *jsuper.Superblock) (*serverInfo, *metrics.Disk, error) {
	client := metrics.NewClient(metrics.ControlSocket(at.disk))
	defer client.Close()
	st, err := client.State(ctx)
	if errors.Is(err, metrics.ErrNoServer) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	live := st.ByExport(st.Export)
	if live == nil || live.UUID != jsuper.FormatUUID(super.DiskUUID) {
		return nil, nil, nil
	}
	return &serverInfo{PID: st.PID, Version: st.Version, Started: utcTime(st.Started)}, live, nil
}

// liveFacts is what clients did since the server's start, for people.
func liveFacts(d *metrics.Disk) []fact {
	b := &d.Bytes
	facts := []fact{
		{"clients", fmt.Sprintf("%d connected, %d requests, %d failed", d.Connections, d.Requests, d.Failed)},
		{"clients read", humanBytes(b.ClientRead)},
		{"clients wrote", humanBytes(b.ClientWritten)},
		{"host got", fmt.Sprintf("%s: log %s, home %s, in place %s, spare %s, state %s", humanBytes(b.Host()),
			humanBytes(b.Log), humanBytes(b.Home), humanBytes(b.InPlace), humanBytes(b.Spare), humanBytes(b.State))},
	}
	if b.ClientWritten > 0 {
		facts = append(facts, fact{"write amplification", fmt.Sprintf("%.3f", b.Amplification)})
	}
	facts = append(facts, fact{"checkpoint lag", fmt.Sprintf("%.1f s", d.Log.LagSeconds)})
	for _, c := range d.Commands {
		if c.Count > 0 {
			facts = append(facts, fact{c.Name, latencyText(&c.Histogram)})
		}
	}
	if d.Flush.Count > 0 {
		facts = append(facts, fact{"log flush", latencyText(&d.Flush)})
	}
	if d.HostFull != "" {
		facts = append(facts, fact{"waits for room", d.HostFull})
	}
	if d.Poisoned != "" {
		facts = append(facts, fact{"poisoned", d.Poisoned + "; restart jnbd to recover"})
	}
	return facts
}

// latencyText is a histogram in a line.
func latencyText(h *metrics.Histogram) string {
	return fmt.Sprintf("%d times, p50 %s, p99 %s", h.Count, human.Duration(h.Quantile(0.5)), human.Duration(h.Quantile(0.99)))
}

// humanBytes is humanSize for counters.
func humanBytes(n uint64) string { return humanSize(int64(n)) }
