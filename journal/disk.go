// Package journal is the engine: a disk that turns every write into a journaled
// transaction.
//
// Where to read:
//
//	append.go      a change, from the call to its place in the order
//	direct.go      a write that goes out once
//	once.go        the write-once side, and how it and the log hold together
//	spare.go       how the bytes of spare slots reach the host
//	route.go       which way a write goes: the one place where modes differ
//	read.go        a read: overlay, log, backing
//	commit.go      barriers: what FLUSH and FUA wait for
//	checkpoint.go  logged blocks go home, the tail moves
//	compose.go     how a logged part of a block gets into an empty home
//	homing.go      displaced blocks go home
//	pace.go        how a log that fills slows writers down
//	recover.go     from a superblock and a log to a disk that serves
//	loader.go      changes of a replay, on their way into the overlay
//	backing.go     whether the backing is as this journal left it
//	close.go       the ways to end
//	poison.go      the first failed write or flush
//	hostfull.go    a host that has no more space
//
// What is assumed of devices stands in package disk; what is stored, in the FORMAT.md of
// this package, of wal and of jsuper.
package journal

import (
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"jnbd/disk"
	"jnbd/jsuper"
	"jnbd/wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Disk is a journaled disk that is open. All methods may be called at the same time.
//
// Locks, outermost first: checkpointMu, appendMu, overlay.mu. None is held across a network
// write; appendMu is held across the log's write, which gives the order, and never while
// waiting for space.
type Disk struct {
	// What it stands on; fixed after Open.
	home          disk.Device // [0, size) of the backing
	backing       disk.Device // all of it, as it was given; asked for its times
	guarded       Parts       // through disk.FailStop
	ring          disk.Device // the log's range
	payloads      *wal.Reader // of the log, by position
	once          *once       // nil without a write-once side
	log           *wal.Log    // nil if read-only
	store         *jsuper.Store
	size          int64
	readOnly      bool
	opened        jsuper.Superblock // as Open found it
	routes        routes
	recovery      Recovery
	onPoison      func(error)
	onFlush       func(time.Duration)
	unflushedBulk int64 // of Options
	onHostFull    func(error)
	maxPayload    int   // of one record
	maxRequest    int64 // of one request, and of one append
	logRoom       int64 // log bytes that clients may fill
	batchBytes    int64 // of log, that one checkpoint batch frees

	maxExtents atomic.Int64 // that the memory allows the overlay; SetMemory changes it

	// The order.
	queue    queue
	pendings sync.Pool  // of *pending
	appendMu sync.Mutex // who holds it sees log and overlay agree
	// The leader's, guarded by being the leader.
	batch []*pending
	recs  []wal.Record
	pos   []int64
	pace  pace

	overlay overlay
	gate    *gate

	// The checkpointer's.
	checkpointMu sync.Mutex
	super        jsuper.Superblock     // guarded by checkpointMu; what was last saved
	homeBuf      []byte                // guarded by checkpointMu; nil until the first batch
	space        *broadcast            // log space was freed, or waiting for it is in vain
	kick         chan struct{}         // capacity 1
	starving     atomic.Bool           // somebody waits for space, however full the log is
	hostFull     atomic.Pointer[error] // why the last checkpoint stopped, if it may go on

	// Recovery's, of no use afterwards.
	touched  overlay  // ranges whose bases the log's records changed
	accepted bool     // the backing was taken as it is
	unproven []extent // written once, found by checksum, not known to be durable

	// Which history it is (incarnation.go); fixed after Open.
	incarnation uint64
	cutSeq      uint64 // of the first frame behind what replay kept
	ending      ending // of the incarnation

	// The end.
	poison     atomic.Pointer[error] // P9; set once
	closing    atomic.Bool
	stopped    chan struct{} // closed when closing begins
	background sync.WaitGroup

	started      time.Time    // when start was called
	lastChange   atomic.Int64 // ns since then, by a clock that nobody sets
	superDurable atomic.Int64 // the durable mark in the superblock
	counters     counters
	lag          lag
	movingTo     atomic.Int64 // the tail that a checkpoint is making; 0 if none is
}

// Size is the disk's length in bytes. The error is always nil; it is there for the backend
// contract of other Go NBD servers.
func (d *Disk) Size() (int64, error) { return d.size, nil }

// start begins the background work of a disk that may write.
func (d *Disk) start(opt Options) {
	d.started = time.Now()
	if d.once != nil {
		d.once.slots = newSlots(d.once.spare, &d.super, d.routes.mode)
		d.once.slots.keepApart(d.once.state)
	}
	d.background.Add(1)
	go d.checkpointLoop() // ends when stopped is closed, or with poison
	if opt.CommitInterval > 0 {
		d.background.Add(1)
		go d.commitLoop(opt.CommitInterval) // ends like it
	}
}
