// Package ordered is the write-once side: it knows where the base version of every block is,
// and which places a direct write may use. It does no I/O on payloads; the engine does.
//
// Where to read:
//
//	reserve.go     a direct write, from Reserve to Apply: the main path
//	change.go      what a log record does to the state, live and in replay
//	quarantine.go  when a place that was given up may be written again
//	steal.go       the checkpointer's claim on a home
//	homing.go      work for idle times: homing, punching
//	replay.go      from a stored state and records to a live one
//	save.go        the state goes to its device; load.go: and comes back
//	format.go      the bytes, as FORMAT.md has them
//
// Words: the base of a block is its newest version outside the log. Home of block v is
// offset v×4096 of the backing; slot s is offset s×4096 of the spare area. A displaced
// block has its base in a slot.
package ordered

import (
	"fmt"
	"sync"
)

// State is what is known of homes and spare slots. Its invariants:
//
//   - A block is at home (its presence bit is set), or displaced (it is in the map), or
//     absent: never two of these (I3).
//   - A slot is free, in flight, mapped by one run, or quarantined: never two of these (I1).
//   - A place that a change at log position p gave up is handed out again only after a
//     Release whose batch was taken under a durable position beyond p (I2).
//   - A home is written in place only while it is empty, outside quarantine, and reserved by
//     one direct write or busy for one owner.
//
// New and Load return a state in replay: Map, MapHome, Drop and SetPresent may be called, in
// the order of the log, and Lookup and Stats. FinishReplay makes it live. To break an
// invariant, or to call what is not allowed at the time, panics: it is a bug in the caller.
//
// All methods may be called at the same time. None calls back while it holds the lock.
type State struct {
	layout Layout
	tree   pageTree

	saveMu sync.Mutex // one Save, Committed at a time; before mu
	save   saveState  // guarded by saveMu

	mu        sync.RWMutex
	changed   *sync.Cond // on mu: a reservation or a busy range changed
	live      bool       // FinishReplay was called
	badReplay error      // the first record out of range in replay

	present      bitset // bit v: home(v) holds the base of v
	presentCount int64
	displaced    displaced
	spare        spare
	dirty        bitset // stored pages (leaves) that the state has left behind

	reservations map[uint64]*Reservation // those not ended, by id
	reserved     rangeSet                // homes of reservations; tag: id
	busy         rangeSet                // homes that a background writer owns
	waiting      rangeSet                // homes in quarantine; tag: stamp of the entry
	garbage      rangeSet                // homes that may hold bytes nobody needs
	lastStamp    uint64                  // ids of reservations, stamps of the quarantine
	quarantine   []quarantined           // in the order of the changes
	inQuarantine int64                   // slots there, and in batches not yet released
	newest       int64                   // highest log position of a change
}

// New returns the state of a disk of which nothing is known: every block absent, every slot
// free. It is in replay. The layout must be valid.
func New(l Layout) *State {
	if err := l.Validate(); err != nil {
		panic(fmt.Sprintf("ordered: %v", err))
	}
	s := &State{
		layout: l, tree: newTree(l),
		present: newBitset(l.Blocks), spare: spare{slots: l.Slots, free: l.Slots}, // its bits: FinishReplay
		reservations: map[uint64]*Reservation{},
	}
	s.changed = sync.NewCond(&s.mu)
	s.dirty = newBitset(s.tree.leaves())
	s.save.entries = make([]uint64, s.tree.pages)
	return s
}

// Layout is what the state was made for.
func (s *State) Layout() Layout { return s.layout }

// Where says in which place the base of a block is.
type Where uint8

const (
	Absent Where = iota // nowhere: it reads as zeros
	Home                // at home
	Spare               // in a spare slot
)

func (w Where) String() string {
	switch w {
	case Absent:
		return "absent"
	case Home:
		return "home"
	case Spare:
		return "spare"
	}
	return fmt.Sprintf("where %d", uint8(w))
}

// Piece is N blocks from Block on whose bases are in one place. With Spare, block Block+i is
// in slot Slot+i; else Slot is 0.
type Piece struct {
	Block, N int64
	Where    Where
	Slot     int64
}

// Lookup appends to dst where the bases of [block, block+n) are: pieces in order, without
// gaps, neighbours merged. The answer is true until the next change; a reader that goes on
// using it must be inside the gate that Release's caller waits for.
func (s *State) Lookup(dst []Piece, block, n int64) []Piece {
	s.checkBlocks("lookup", block, n)
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, end := block, block+n
	s.displaced.visit(block, end, func(m mapped) bool {
		dst = s.lookupHomesLocked(dst, at, m.block)
		if last := len(dst) - 1; at == m.block && m.block > block && dst[last].Slot+dst[last].N == m.slot {
			dst[last].N += m.n // a run longer than maxRun
		} else {
			dst = append(dst, Piece{Block: m.block, N: m.n, Where: Spare, Slot: m.slot})
		}
		at = m.end()
		return true
	})
	return s.lookupHomesLocked(dst, at, end)
}

// lookupHomesLocked appends the pieces of [from, end), of which no block is displaced.
func (s *State) lookupHomesLocked(dst []Piece, from, end int64) []Piece {
	for at := from; at < end; {
		n, present := s.present.run(at, end)
		p := Piece{Block: at, N: n, Where: Absent}
		if present {
			p.Where = Home
		}
		dst = append(dst, p)
		at += n
	}
	return dst
}

// Stats is a summary of the state. All but Runs are in blocks or slots, which are alike long.
type Stats struct {
	Present     int64 // blocks whose base is at home
	Displaced   int64 // blocks whose base is in a slot
	Runs        int   // runs in the map of displaced blocks: its memory
	SpareUsed   int64 // slots that are not free: in flight, mapped, quarantined
	SpareFree   int64
	InFlight    int64 // slots of reservations
	Quarantined int64 // slots given up and not released
	Newest      int64 // highest log position of a change, 0 for none
}

// Stats is the summary as of now.
func (s *State) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{
		Present: s.presentCount, Displaced: s.displaced.blocks, Runs: s.displaced.tree.Len(),
		SpareUsed: s.layout.Slots - s.spare.free, SpareFree: s.spare.free,
		InFlight: s.spare.inFlight, Quarantined: s.inQuarantine, Newest: s.newest,
	}
}

// checkBlocks panics on a range that is not the disk's.
func (s *State) checkBlocks(what string, block, n int64) {
	if block < 0 || n < 0 || block > s.layout.Blocks || n > s.layout.Blocks-block {
		panic(fmt.Sprintf("ordered: %s of %d blocks at %d, the disk has %d", what, n, block, s.layout.Blocks))
	}
}

// mustBeLiveLocked panics in replay.
func (s *State) mustBeLiveLocked(what string) {
	if !s.live {
		panic("ordered: " + what + " before FinishReplay")
	}
}
