package vmtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"jnbd/disk/crashdisk"
	"jnbd/vmtest/logwrites"
	"jnbd/vmtest/workload"
)

// tape is what the recorded disk of a guest was asked, in order, and what the guest had been
// told in between. Cut k is the instant before event k.
type tape struct {
	disks  []Range // the partitions that are played, by the number of their disk
	events []tapeEvent
	begin  int // the event with the first mark: cuts before it mean nothing
}

// tapeEvent is one event: of mark, flush, discard and write only one is.
type tapeEvent struct {
	mark  *workload.Mark
	flush bool
	disk  int
	off   int64 // on the disk
	n     int64
	data  []byte // nil: zeros, or a discard, which makes zeros on this disk
}

// readTape reads the log of a recorded disk. Marks are those on the partition marks. A log
// without the workload's end is an error.
func readTape(path string, disks []Range, marks Range) (_ *tape, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	log, err := logwrites.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, err
	}
	t := &tape{disks: disks, begin: -1}
	ended := false
	for {
		e, err := log.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = t.add(e, marks)
		}
		if err != nil {
			return nil, err
		}
		last := len(t.events) - 1
		if last < 0 || t.events[last].mark == nil {
			continue
		}
		switch t.events[last].mark.Kind {
		case workload.Begin:
			t.begin = last
		case workload.End:
			ended = true
		}
	}
	if t.begin < 0 || !ended {
		return nil, fmt.Errorf("%d events without the begin or the end of the workload", len(t.events))
	}
	return t, nil
}

// add adds an entry of the log.
func (t *tape) add(e logwrites.Entry, marks Range) error {
	if e.Flags&logwrites.FlagFlush != 0 {
		t.events = append(t.events, tapeEvent{flush: true})
	}
	if e.N == 0 {
		return nil
	}
	if e.Off >= marks.Off && e.Off+e.N <= marks.Off+marks.N {
		mark, err := workload.DecodeMark(e.Data)
		t.events = append(t.events, tapeEvent{mark: &mark})
		return err
	}
	for i, d := range t.disks {
		if e.Off < d.Off || e.Off+e.N > d.Off+d.N {
			continue
		}
		t.events = append(t.events, tapeEvent{disk: i, off: e.Off - d.Off, n: e.N, data: bytes.Clone(e.Data)})
		return nil
	}
	return fmt.Errorf("the guest wrote [%#x,+%d), which is on none of its partitions", e.Off, e.N)
}

// marks are all marks, in order.
func (t *tape) marks() (list []*workload.Mark) {
	for _, e := range t.events {
		if e.mark != nil {
			list = append(list, e.mark)
		}
	}
	return list
}

// lie is what a player makes of flushes: a test that does not notice is no test.
type lie int

const (
	honest lie = iota
	noFlush
	someFlushes // one in four does nothing
)

// player plays a tape into crashdisks, whose images are the states after a power cut.
type player struct {
	tape   *tape
	lie    lie
	random *rand.Rand // which flushes a lie is about
	group  *crashdisk.Group
	disks  []*crashdisk.Disk
	at     int // the next event

	unflushed int   // writes that no flush has covered
	done      int   // operations acknowledged so far
	answered  int64 // stamp of the last answer
}

func newPlayer(t *tape, l lie) *player {
	p := &player{tape: t, lie: l, random: rand.New(rand.NewPCG(1, 4)), group: crashdisk.NewGroup(1)}
	for i, d := range t.disks {
		p.disks = append(p.disks, p.group.Disk(fmt.Sprintf("disk%d", i), d.N))
	}
	return p
}

// to plays on until cut k.
func (p *player) to(k int) error {
	for ; p.at < k; p.at++ {
		if err := p.play(&p.tape.events[p.at]); err != nil {
			return fmt.Errorf("event %d: %w", p.at, err)
		}
	}
	return nil
}

func (p *player) play(e *tapeEvent) error {
	switch {
	case e.mark != nil:
		p.done = max(p.done, e.mark.Done)
		if e.mark.Request != nil {
			p.answered = max(p.answered, e.mark.Request.Replied)
		}
	case e.flush:
		return p.flush()
	case e.data == nil:
		p.unflushed++
		return p.disks[e.disk].Zero(e.off, e.n, true)
	default:
		p.unflushed++
		_, err := p.disks[e.disk].WriteAt(e.data, e.off)
		return err
	}
	return nil
}

// flush flushes all partitions: they are one disk.
func (p *player) flush() error {
	if p.at > p.tape.begin && (p.lie == noFlush || p.lie == someFlushes && p.random.IntN(4) == 0) {
		return nil
	}
	p.unflushed = 0
	for _, d := range p.disks {
		if err := d.Flush(); err != nil {
			return err
		}
	}
	return nil
}
