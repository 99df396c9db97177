package wal

// How records are packed: requests go whole into the current frame while they fit. One
// that doesn't fit into the rest of the segment begins a frame of its own, which takes
// what fits and is marked More; the rest follows in the next segment. So a request that
// spans frames always begins with one, and a cut between frames can keep or drop it whole.

// planned is a frame that will be written.
type planned struct {
	kind     Kind
	flags    Flags
	pos      int64
	length   int64
	payload  int64
	from, to int // its records in the batch
	open     bool
}

// plan is the layout of an append.
type plan struct {
	geo     geometry
	pos     int64
	align   bool
	entries int64 // payload of the SUMMARY that comes next
	over    bool  // it won't have an index
	open    bool  // a request is open
	goesOn  bool  // the last frame began in one
	frames  []planned
}

// batch plans a whole batch, or reports that it ends beyond limit.
func (p *plan) batch(recs []Record, limit int64) bool {
	for i := 0; i < len(recs); {
		p.enter()
		room := p.geo.segmentEnd(p.pos) - p.pos
		to, payload := p.fill(recs, i, room)
		switch {
		case to > i:
			p.records(recs, i, to, payload)
			i = to
		default:
			p.add(planned{kind: KindPad, length: room})
		}
		if p.pos > limit {
			return false
		}
	}
	return true
}

// fill says which records from i on go into a frame of at most room bytes.
func (p *plan) fill(recs []Record, i int, room int64) (to int, payload int64) {
	size := int64(headerBytes)
	to = i
	for j := i; j < len(recs); {
		request := size
		end := j
		for more := true; more; end++ {
			request += recordBytes + int64(len(recs[end].Payload))
			more = recs[end].More
			if request > room {
				break
			}
		}
		if request > room {
			break
		}
		to, size, j = end, request, end
	}
	if to == i { // not even one request: as much of it as fits
		for to < len(recs) && size+recordBytes+int64(len(recs[to].Payload)) <= room {
			size += recordBytes + int64(len(recs[to].Payload))
			to++
		}
	}
	return to, size - headerBytes - int64(to-i)*recordBytes
}

// records plans a frame of records [from, to).
func (p *plan) records(recs []Record, from, to int, payload int64) {
	f := planned{kind: KindRecords, from: from, to: to, payload: payload, length: frameBytes(to-from, payload)}
	if recs[to-1].More {
		f.flags = FlagMore
	}
	p.add(f)
	p.goesOn, p.open = p.open, f.flags&FlagMore != 0
	p.entries += entryBytes + int64(to-from)*recordBytes
	p.over = p.over || p.entries > p.geo.maxSummaryPayload()
}

// barrier plans a barrier.
func (p *plan) barrier() {
	p.enter()
	p.add(planned{kind: KindRecords, flags: FlagBarrier, length: frameBytes(0, 0)})
	p.align = true
}

// endWithBarrier makes the last frame of a batch a barrier, and reports whether it may be one: not
// if it ends a request that began in another frame. A scan takes that for damage.
func (p *plan) endWithBarrier() bool {
	if p.goesOn {
		return false
	}
	p.frames[len(p.frames)-1].flags |= FlagBarrier
	p.align = true
	return true
}

// enter goes to where the next frame starts, and plans the SUMMARY that comes first in a
// segment.
func (p *plan) enter() {
	if p.align {
		p.pos = alignUp(p.pos, SectorBytes)
	}
	if !p.geo.isBoundary(p.pos) {
		return
	}
	f := planned{kind: KindSummary, payload: p.entries, open: p.open}
	if p.over {
		f.flags, f.payload = FlagIncomplete, summaryHeadBytes
	}
	f.length = frameBytes(1, f.payload)
	p.add(f)
	p.entries, p.over = summaryHeadBytes, false
}

// add plans a frame at the current position.
func (p *plan) add(f planned) {
	if p.align {
		f.flags |= FlagAligned
		p.align = false
	}
	f.pos = p.pos
	p.pos += f.length
	p.frames = append(p.frames, f)
}
