package wal

import "encoding/binary"

// searchBytes is how far behind the end of the chain every line is looked at.
const searchBytes = 64 << 20

// evidence is what stands behind the end of a chain.
type evidence struct {
	claim    *header // a frame that says the end of the chain was durable, or nil
	stranded int     // valid headers of the chain's epoch
}

// lookBehind searches for frames behind the end of the chain that are in their place and
// say that the log was durable beyond that end. Then the frame that is missing there was
// lost after it was durable, and the log must not be cut. Whatever their epoch, they are
// right: no incarnation ever began below a durable mark.
//
// It looks at every line of the next 64 MiB, and of the segment that begins with the last
// valid boundary. The boundaries themselves were all read before the walk.
func (s *scanner) lookBehind(end chain) (evidence, error) {
	var ev evidence
	until := min(end.pos+searchBytes, s.w.limit)
	if err := s.searchLines(end, end.pos, until, &ev); err != nil || ev.claim != nil {
		return ev, err
	}
	for i := len(s.heads) - 1; i >= 0; i-- {
		if !s.heads[i].valid {
			continue
		}
		last := s.heads[i].pos
		return ev, s.searchLines(end, max(last, until), min(last+s.geo.seg, s.w.limit), &ev)
	}
	return ev, nil
}

// searchLines looks at every line of [from, to).
func (s *scanner) searchLines(end chain, from, to int64, ev *evidence) error {
	piece := make([]byte, max(0, min(readAhead, s.geo.seg, to-from)))
	for from < to {
		n := min(to-from, int64(len(piece)), s.geo.segmentEnd(from)-from)
		if err := s.w.read(piece[:n], from); err != nil {
			return err
		}
		for at := int64(0); at < n; at += LineBytes {
			line := piece[at : at+LineBytes]
			if binary.LittleEndian.Uint64(line) != magicWord {
				continue
			}
			h, why := decodeHeader(s.geo, line)
			if why != nil || h.pos != from+at {
				continue
			}
			if h.durable > end.pos {
				ev.claim = &h
				return nil
			}
			if h.epoch == end.epoch && h.seq >= end.seq {
				ev.stranded++
			}
		}
		from += n
	}
	return nil
}
