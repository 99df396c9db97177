package powercut

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// The question of P4: is there an order of the requests, one that the clients could have
// seen, of which this content is a prefix, and is the prefix long enough? It is decided
// exactly, in linear time, without looking into the log.
//
// What binds the order: a request that was answered before another was sent comes first;
// one that died with its server comes, if at all, before those sent to the next server. All
// others may have happened either way around.
//
//  1. Every sector names the request that wrote it last.
//  2. The set S of requests that happened must hold: those that are promised (P2, P3); those
//     that are named; everything answered before some member of S was sent. And where a
//     member wrote a sector that now reads as zeros, the next zeroing of it.
//  3. Members of S are whole: wherever a member's sector names another request, that one
//     came later. A sector that names nobody, though a member wrote it, is a torn request.
//  4. S has a legal order if time and step 3 together have no cycle. S is the least set
//     possible, and a larger one only has more to obey: so if S has none, nothing has.
//
// Numbers make step 1 exact for writes. Zeros carry no number, so zeroing requests must
// not overlap requests that run at the same time (newJudge checks that).

// judge knows the requests of one history. It is never modified: many may ask at a time.
type judge struct {
	requests  []Request
	diskBytes int64
	writers   [][]int32 // by sector: the requests that change it, by Sent
	bySent    []int32   // changes, by Sent
	byOver    []int32   // changes, by Over, those without at the end
	byReplied []int32   // changes that were answered, by Replied
}

// newJudge takes the requests as they are. It is an error when zeros would be ambiguous.
func newJudge(requests []Request, diskBytes int64) (*judge, error) {
	j := &judge{requests: requests, diskBytes: diskBytes, writers: make([][]int32, diskBytes/sectorBytes)}
	for i := range requests {
		q := &requests[i]
		if !q.changes() {
			continue
		}
		j.bySent = append(j.bySent, int32(i))
		if q.Replied != 0 {
			j.byReplied = append(j.byReplied, int32(i))
		}
	}
	j.byOver = slices.Clone(j.bySent)
	sortBy(j.bySent, func(i int32) int64 { return requests[i].Sent })
	sortBy(j.byOver, func(i int32) int64 { return orNever(requests[i].Over) })
	sortBy(j.byReplied, func(i int32) int64 { return requests[i].Replied })
	for _, i := range j.bySent {
		from, to := requests[i].sectors()
		for s := from; s < to; s++ {
			if err := j.addWriter(s, i); err != nil {
				return nil, err
			}
		}
	}
	return j, nil
}

// addWriter notes that request i changes a sector. Requests come by Sent.
func (j *judge) addWriter(sector int64, i int32) error {
	q := &j.requests[i]
	for _, before := range j.writers[sector] {
		b := &j.requests[before]
		if (q.Kind != Write || b.Kind != Write) && orNever(b.Over) >= q.Sent {
			return fmt.Errorf("history: %s (number %d) ran beside %s (number %d): their zeros can't be told apart",
				q, i+1, b, before+1)
		}
	}
	j.writers[sector] = append(j.writers[sector], i)
	return nil
}

func sortBy(list []int32, key func(int32) int64) {
	slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(key(a), key(b)) })
}

// orNever is a stamp, or the end of time for none.
func orNever(stamp int64) int64 {
	if stamp == 0 {
		return math.MaxInt64
	}
	return stamp
}

// crash is when a state's power went.
type crash struct {
	at int64 // stamp: what was answered before it counts
	// processOnly is the death of the server alone: all that was answered must be there.
	processOnly bool
	// sentUnknown says that requests sent after at may be there as well: then at is known to
	// be before the crash, and no more.
	sentUnknown bool
}

// mustHave says which requests a state must hold (P2, P3).
func (j *judge) mustHave(c crash) func(i int32) bool {
	flushed := int64(0) // when the last of the answered flushes was sent
	for i := range j.requests {
		if q := &j.requests[i]; (q.Kind == Flush || q.FUA) && q.Replied != 0 && q.Replied < c.at {
			flushed = max(flushed, q.Sent)
		}
	}
	return func(i int32) bool {
		q := &j.requests[i]
		answered := q.Replied != 0 && q.Replied < c.at
		return answered && (c.processOnly || q.FUA || q.Replied < flushed) ||
			q.Seen != 0 && q.Seen < c.at
	}
}

// trial is one content before the judge.
type trial struct {
	*judge
	crash   crash
	named   []int32 // by sector: the request that wrote it, -1 for zeros
	there   []bool  // by request: S
	members int
	lastOf  int64 // the newest Sent in S
	closed  int   // how much of byReplied was looked at
}

// decide judges the content of a whole disk. there is S: the requests that have happened.
func (j *judge) decide(content []byte, c crash) (there []bool, err error) {
	t := &trial{judge: j, crash: c, there: make([]bool, len(j.requests))}
	if err := t.readNames(content); err != nil {
		return nil, err
	}
	t.close()
	if err := t.zeroed(); err != nil {
		return nil, err
	}
	after, err := t.whole()
	if err != nil {
		return nil, err
	}
	return t.there, t.ordered(after)
}

// readNames is steps 1 and 2 but for what follows from them.
func (t *trial) readNames(content []byte) error {
	if int64(len(content)) != t.diskBytes {
		return fmt.Errorf("content of %d bytes, want %d", len(content), t.diskBytes)
	}
	must := t.mustHave(t.crash)
	for _, i := range t.bySent {
		if must(i) {
			t.add(i)
		}
	}
	t.named = make([]int32, t.diskBytes/sectorBytes)
	for s := range t.named {
		number, err := readNumber(content[s*sectorBytes:(s+1)*sectorBytes], int64(s))
		if err != nil {
			return err
		}
		t.named[s] = int32(number) - 1
		if number == 0 {
			continue
		}
		if number > uint64(len(t.requests)) {
			return fmt.Errorf("sector %d: of request %d, and only %d were made", s, number, len(t.requests))
		}
		q := &t.requests[number-1]
		if from, to := q.sectors(); q.Kind != Write || int64(s) < from || int64(s) >= to {
			return fmt.Errorf("sector %d: of request %d, which is a %s", s, number, q)
		}
		if q.Sent > t.crash.at && !t.crash.sentUnknown {
			return fmt.Errorf("sector %d: of request %d, which was sent after the crash", s, number)
		}
		t.add(int32(number) - 1)
	}
	return nil
}

// add makes a request a member of S.
func (t *trial) add(i int32) {
	if !t.there[i] {
		t.there[i] = true
		t.members++
		t.lastOf = max(t.lastOf, t.requests[i].Sent)
	}
}

// close adds everything that was answered before some member was sent.
func (t *trial) close() {
	for ; t.closed < len(t.byReplied); t.closed++ {
		i := t.byReplied[t.closed]
		if t.requests[i].Replied >= t.lastOf {
			return
		}
		t.add(i)
	}
}

// zeroed adds the zeroings that explain zeros, until nothing is missing.
func (t *trial) zeroed() error {
	for before := -1; before != t.members; {
		before = t.members
		for s, name := range t.named {
			if name >= 0 {
				continue
			}
			if err := t.explainZeros(int64(s)); err != nil {
				return err
			}
		}
		t.close()
	}
	return nil
}

// explainZeros is zeroed for one sector.
func (t *trial) explainZeros(sector int64) error {
	list := t.writers[sector]
	for at := len(list) - 1; at >= 0; at-- {
		q := &t.requests[list[at]]
		if !t.there[list[at]] {
			continue
		}
		if q.Kind != Write {
			return nil
		}
		// The last write that is there. What follows it and zeros must be there too.
		for _, i := range list[at+1:] {
			if z := &t.requests[i]; z.Kind != Write && (z.Sent < t.crash.at || t.crash.sentUnknown) {
				t.add(i)
				return nil
			}
		}
		return fmt.Errorf("sector %d: zeros, but request %d (%s) %s", sector, list[at]+1, q, t.why(list[at]))
	}
	return nil
}

// why says what makes a request a member of S.
func (t *trial) why(i int32) string {
	if t.mustHave(t.crash)(i) {
		return "was promised"
	}
	for s, name := range t.named {
		if name == i {
			return fmt.Sprintf("is there, in sector %d", s)
		}
	}
	return "was answered before another was sent that is there"
}

// whole is step 3: by request, those that must come before it, because it covers them.
func (t *trial) whole() (after [][]int32, err error) {
	after = make([][]int32, len(t.requests))
	for _, i := range t.bySent {
		if !t.there[i] {
			continue
		}
		from, to := t.requests[i].sectors()
		last := int32(-1)
		for s := from; s < to; s++ {
			name := t.named[s]
			if name < 0 || name == i || name == last {
				continue // zeros were explained
			}
			last = name
			if !t.there[name] {
				return nil, fmt.Errorf("sector %d: names request %d, which is not there", s, name+1)
			}
			after[i] = append(after[i], name)
		}
	}
	return after, nil
}

// ordered is step 4. Again and again it takes a member that nothing else must precede.
func (t *trial) ordered(after [][]int32) error {
	blockers := make([]int, len(t.requests)) // by request: covered members not yet taken
	for _, names := range after {
		for _, name := range names {
			blockers[name]++
		}
	}
	taken := make([]bool, len(t.requests))
	var ready []int32
	count, sent, over := 0, 0, 0
	for count < t.members {
		// All up to the first end of one that is not taken may go, as far as time goes.
		for over < len(t.byOver) && (!t.there[t.byOver[over]] || taken[t.byOver[over]]) {
			over++
		}
		horizon := int64(math.MaxInt64)
		if over < len(t.byOver) {
			horizon = orNever(t.requests[t.byOver[over]].Over)
		}
		for ; sent < len(t.bySent) && t.requests[t.bySent[sent]].Sent < horizon; sent++ {
			if i := t.bySent[sent]; t.there[i] && blockers[i] == 0 {
				ready = append(ready, i)
			}
		}
		if len(ready) == 0 {
			return t.cycle(after, taken, horizon)
		}
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		taken[i] = true
		count++
		for _, name := range after[i] {
			if blockers[name]--; blockers[name] == 0 && t.requests[name].Sent < horizon {
				ready = append(ready, name)
			}
		}
	}
	return nil
}

// cycle says why there is no order: what covers the first member that can't be taken.
func (t *trial) cycle(after [][]int32, taken []bool, horizon int64) error {
	for _, i := range t.bySent {
		if !t.there[i] || taken[i] || t.requests[i].Sent >= horizon {
			continue
		}
		for b := range after {
			if taken[b] || !slices.Contains(after[b], i) {
				continue
			}
			return fmt.Errorf("no order explains it: request %d (%s) %s, yet request %d (%s), sent at %d and over at %d, should have covered it and %s (covered one: sent at %d, over at %d)",
				i+1, &t.requests[i], t.why(i), b+1, &t.requests[b], t.requests[b].Sent, t.requests[b].Over, t.why(int32(b)), t.requests[i].Sent, t.requests[i].Over)
		}
	}
	return fmt.Errorf("no order explains it")
}
