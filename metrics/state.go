package metrics

import "time"

// State is what a running jnbd tells at one moment. It is the JSON of /live.json and of the
// control socket: fields are only ever added, sizes end in _bytes, times are RFC 3339 in UTC,
// counters count since the start of the process.
type State struct {
	Time    time.Time `json:"time"` // of this state, by the server's clock
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`

	Connections        int    `json:"connections"` // open, of all disks
	ConnectionsMax     int    `json:"connections_max"`
	ConnectionsTotal   uint64 `json:"connections_total"`
	ConnectionsRefused uint64 `json:"connections_refused"`
	BufferBytes        int64  `json:"buffer_bytes"` // payloads and replies in memory

	// Export is the disk whose control socket was asked; empty elsewhere.
	Export string `json:"export,omitempty"`
	Disks  []Disk `json:"disks"`
}

// Disk is one export and the disk behind it.
type Disk struct {
	Export    string `json:"export"`
	Path      string `json:"disk"`
	UUID      string `json:"uuid"`
	Mode      string `json:"mode"`
	ReadOnly  bool   `json:"read_only"`
	SizeBytes int64  `json:"size_bytes"`
	Poisoned  string `json:"poisoned"` // why the disk takes no changes any more; empty if it does

	// HostFull is why nothing goes home from the log, when the host has no space; else empty.
	HostFull string `json:"host_full"`

	Log   Log   `json:"log"`
	Spare Spare `json:"spare"`
	Bytes Bytes `json:"bytes"`

	Connections int    `json:"connections"`
	Requests    uint64 `json:"requests"`
	Failed      uint64 `json:"failed"`
	Dropped     uint64 `json:"dropped"` // changes whose connection was gone before their turn

	Commands []Command `json:"commands"` // of every kind, also those that never came
	Flush    Histogram `json:"flush"`    // what the devices took for a flush of the log
}

// Log is the log's ring. Positions count bytes for ever; position p lies at p modulo the size.
type Log struct {
	SizeBytes   int64  `json:"size_bytes"`
	UsedBytes   int64  `json:"used_bytes"`
	Tail        int64  `json:"tail"`
	Head        int64  `json:"head"`
	DurableUpTo int64  `json:"durable_up_to"`
	NextSeq     uint64 `json:"next_seq"`
	Epoch       string `json:"epoch"`

	BarrierSeq  uint64     `json:"barrier_seq"` // of the last durable barrier; 0 for none
	BarrierTime *time.Time `json:"barrier_time"`

	// Barriers are positions of some durable barriers, the last one among them, oldest first.
	Barriers []int64 `json:"barriers"`
	// MovingTo is the tail that a checkpoint is making; 0 if none is.
	MovingTo int64 `json:"moving_to"`

	NotHomeBytes   int64   `json:"not_home_bytes"` // whose newest version is only in the log
	NotHomeExtents int     `json:"not_home_extents"`
	Flushes        uint64  `json:"flushes"`
	Checkpoints    uint64  `json:"checkpoints"`
	LagSeconds     float64 `json:"lag_seconds"` // age of the oldest change that no checkpoint has covered
}

// Spare is the write-once side.
type Spare struct {
	SizeBytes       int64 `json:"size_bytes"` // 0: the disk has none
	UsedBytes       int64 `json:"used_bytes"` // also by what waits for a barrier
	DisplacedBlocks int64 `json:"displaced_blocks"`
	DisplacedBytes  int64 `json:"displaced_bytes"`
}

// Bytes are what was read and written.
type Bytes struct {
	ClientRead    uint64 `json:"client_read_bytes"`
	ClientWritten uint64 `json:"client_written_bytes"`
	// To the host, by where they went.
	Log     uint64 `json:"log_bytes"`
	Home    uint64 `json:"home_bytes"`     // by checkpoints and homing
	InPlace uint64 `json:"in_place_bytes"` // once, to empty homes
	Spare   uint64 `json:"spare_bytes"`    // once, to spare slots
	State   uint64 `json:"state_bytes"`    // superblock and write-once state
	// Amplification is all of these divided by ClientWritten; 0 before the first write.
	Amplification float64 `json:"write_amplification"`
}

// Host is everything that was written to the host.
func (b *Bytes) Host() uint64 { return b.Log + b.Home + b.InPlace + b.Spare + b.State }

// Command is what was answered of one kind of request: how many and how fast.
type Command struct {
	Name string `json:"command"`
	Histogram
}

// ByExport is the disk of an export, or nil.
func (s *State) ByExport(name string) *Disk {
	for i := range s.Disks {
		if s.Disks[i].Export == name {
			return &s.Disks[i]
		}
	}
	return nil
}
