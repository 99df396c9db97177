package metrics

import (
	"encoding/hex"
	"os"
	"slices"
	"sync"
	"time"

	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd"
)

// Source is where states come from. Disks come and go by Add and Remove.
type Source struct {
	Version string
	Started time.Time
	Server  *nbd.Server

	mu    sync.Mutex
	disks []DiskSource // never changed in place
}

// Add adds an export, behind those that are there.
func (s *Source) Add(d DiskSource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks = append(slices.Clip(s.disks), d)
}

// Remove removes an export. A state that is being made may still tell of it.
func (s *Source) Remove(export string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks = slices.DeleteFunc(slices.Clone(s.disks), func(d DiskSource) bool { return d.Export == export })
}

// Replace puts d in the place of the export of its name.
func (s *Source) Replace(d DiskSource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks = slices.Clone(s.disks)
	for i := range s.disks {
		if s.disks[i].Export == d.Export {
			s.disks[i] = d
		}
	}
}

// all are the disks of now.
func (s *Source) all() []DiskSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disks
}

// DiskSource is one export of the server.
type DiskSource struct {
	Export   string
	Path     string
	ReadOnly bool
	Disk     *journal.Disk
	Flush    *nbd.Latency // told by the disk's OnFlush
}

// State adds up what there is now. It waits for no request and no device.
func (s *Source) State() *State {
	now := time.Now()
	server := s.Server.Stats()
	st := &State{
		Time:    now.UTC(),
		Version: s.Version,
		PID:     os.Getpid(),
		Started: s.Started.UTC(),

		Connections:        server.Conns,
		ConnectionsMax:     server.MaxConns,
		ConnectionsTotal:   server.ConnsTotal,
		ConnectionsRefused: server.ConnsRefused,
		BufferBytes:        server.BufferBytes,
	}
	exports := map[string]*nbd.ExportStats{}
	all := s.Server.ExportStats()
	for i := range all {
		exports[all[i].Name] = &all[i]
	}
	for _, from := range s.all() {
		clients := exports[from.Export]
		if clients == nil { // the server has not begun
			clients = &nbd.ExportStats{}
		}
		st.Disks = append(st.Disks, from.state(now, clients))
	}
	return st
}

// Poisoned is why a disk takes no changes any more, for each that does not.
func (s *Source) Poisoned() map[string]error {
	found := map[string]error{}
	for _, d := range s.all() {
		if err := d.Disk.Err(); err != nil {
			found[d.Export] = err
		}
	}
	return found
}

// maxBarriers bounds the barriers of a state: more than anybody can draw.
const maxBarriers = 128

// sample is at most n of all, the last one always among them, evenly.
func sample(all []int64, n int) []int64 {
	if len(all) <= n {
		return append([]int64{}, all...)
	}
	some := make([]int64, n)
	for i := range some {
		some[i] = all[(i+1)*len(all)/n-1]
	}
	return some
}

func (s *DiskSource) state(now time.Time, clients *nbd.ExportStats) Disk {
	st := s.Disk.Stats()
	flush := s.Flush.Stats()
	d := Disk{
		Export: s.Export, Path: s.Path, ReadOnly: s.ReadOnly,
		UUID: jsuper.FormatUUID(st.UUID), Mode: st.Mode.String(), SizeBytes: st.DiskBytes,
		Log: Log{
			SizeBytes: st.LogBytes, UsedBytes: st.LogUsedBytes(),
			Tail: st.Tail, Head: st.Head, DurableUpTo: st.DurableUpTo,
			NextSeq: st.NextSeq, Epoch: hex.EncodeToString(st.Epoch[:]),
			BarrierSeq:   st.BarrierSeq,
			NotHomeBytes: st.OverlayBytes, NotHomeExtents: st.OverlayExtents,
			Flushes: st.Flushes, Checkpoints: st.Checkpoints,
			Barriers: sample(s.Disk.Barriers(), maxBarriers), MovingTo: st.MovingTo,
		},
		Spare: Spare{
			SizeBytes: st.SpareBytes, UsedBytes: st.SpareUsedBytes,
			DisplacedBlocks: st.DisplacedBlocks, DisplacedBytes: st.DisplacedBytes,
		},
		Bytes: Bytes{
			ClientRead: clients.BytesRead, ClientWritten: st.ClientBytes,
			Log: st.LoggedBytes, Home: st.HomeBytes, InPlace: st.InPlaceBytes,
			Spare: st.ToSpareBytes, State: st.StateBytes,
			Amplification: st.WriteAmplification(),
		},
		Connections: clients.Conns, Requests: clients.Requests,
		Failed: clients.Failed, Dropped: clients.Dropped,
		Flush: newHistogram(&flush),
	}
	if st.Poisoned != nil {
		d.Poisoned = st.Poisoned.Error()
	}
	if st.HostFull != nil {
		d.HostFull = st.HostFull.Error()
	}
	if !st.BarrierTime.IsZero() {
		t := st.BarrierTime.UTC()
		d.Log.BarrierTime = &t
	}
	if !st.OldestChange.IsZero() {
		d.Log.LagSeconds = max(0, now.Sub(st.OldestChange).Seconds())
	}
	for _, c := range nbd.Commands() {
		d.Commands = append(d.Commands, Command{c.String(), newHistogram(clients.Latency(c))})
	}
	return d
}
