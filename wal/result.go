package wal

import "time"

// Cut is where a scan ends what it keeps.
type Cut int

const (
	// CutPrefix keeps every whole request up to the first frame that doesn't verify.
	CutPrefix Cut = iota
	// CutBarrier keeps everything up to the last barrier.
	CutBarrier
)

// ScanOptions say what to scan and how.
type ScanOptions struct {
	Start Start
	Cut   Cut
	// Stop, if not 0, ends the chain before the first frame at or behind this position, as if
	// that frame were torn: the caller found that what it speaks of did not reach the medium.
	// It must not lie below what an earlier scan found durable.
	Stop int64
	// Live says that the log is being written, and that nothing hangs on where it ends: it is
	// read frame by frame, and the end of the chain is taken as it is. The default judges
	// it, at the price of a search behind it, and takes what is being written for damage.
	Live bool
	// Direct reads past the page cache where the device can (jnbd check).
	Direct bool
	// VerifyAll reads every frame and payload, also where a SUMMARY would do, and holds
	// each SUMMARY against the frames that it lists.
	VerifyAll bool
	// SkipProven leaves out segments that end a whole segment or more below what the headers at
	// the boundaries say is durable: their frames are not read, visited or counted. Of the
	// result, then, only End and DurableUpTo hold. A scan without it must follow, because
	// damage in there goes unseen.
	SkipProven bool
}

// ScanResult is what a scan found, and what Continue needs to go on from there.
type ScanResult struct {
	Start       Start  // as given
	End         int64  // where the kept chain ends
	NextSeq     uint64 // sequence number of the frame that comes next
	Epoch       Epoch  // of the kept chain at its end
	DurableUpTo int64  // everything before this is known to be durable; at most End
	Barrier     Point  // last barrier kept; zero if none was met
	LastTime    time.Time
	Frames      int // kept RECORDS and START frames
	Records     int // in them
	Summaries   int // kept SUMMARY frames, also of segments that were taken from the next one
	BytesRead   int64
	Dropped     Dropped

	boundaries  []chain    // at the segment boundaries of the kept chain, before the frame there
	prevSummary int64      // position of the last SUMMARY, or noSummary
	lastStart   *lastStart // set if the last kept frame is a START
}

// lastStart is a START frame at the end of the chain: where it is and what was before it.
type lastStart struct {
	pos    int64
	before chain
}

// Dropped is what a scan left out, and why it ended where it did.
type Dropped struct {
	Frames   int    // valid RECORDS and START frames of the chain beyond the cut
	Bytes    int64  // from the cut to the end of the chain
	Stranded int    // valid frame headers of the same epoch found behind the end of the chain
	At       int64  // where the chain ended
	Reason   string // what was found there
}

// result is what the walk found.
func (s *scanner) result() *ScanResult {
	k := &s.kept
	r := &ScanResult{
		Start:       s.opt.Start,
		End:         k.at.pos,
		NextSeq:     k.at.seq,
		Epoch:       k.at.epoch,
		DurableUpTo: s.durable,
		Barrier:     k.barrier,
		Frames:      k.frames,
		Records:     k.records,
		Summaries:   k.summaries,
		BytesRead:   s.w.bytesRead,
		Dropped: Dropped{
			Frames:   s.cur.frames - k.frames,
			Bytes:    s.cur.at.pos - k.at.pos,
			Stranded: s.strand,
			At:       s.cur.at.pos,
			Reason:   s.found.String(),
		},
		prevSummary: k.prevSummary,
	}
	if k.time != 0 {
		r.LastTime = timeOf(k.time)
	}
	if k.isStart {
		start := k.start
		r.lastStart = &start
	}
	r.boundaries = s.passed[:k.boundaries]
	return r
}
