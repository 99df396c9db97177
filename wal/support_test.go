package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"jnbd/disk"
)

// testStart is the time of the first frame in tests; every later one is a second later.
var testStart = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// steadyOptions make everything that a log writes the same in every run.
func steadyOptions() Options {
	var mu sync.Mutex
	now, epochs := testStart, byte(0)
	return Options{
		Node: 7,
		Now: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(time.Second)
			return now
		},
		newEpoch: func() Epoch {
			mu.Lock()
			defer mu.Unlock()
			epochs++
			return Epoch{0: epochs, 15: 0xee}
		},
	}
}

// open scans dev and continues it; visited is called for kept frames.
func open(t *testing.T, dev disk.Device, opt ScanOptions, o Options, visit func(*Frame) error) (*Log, *ScanResult) {
	t.Helper()
	r, err := Scan(dev, opt, visit)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Continue(dev, r, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l, r
}

func closeLog(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// fresh is a new log on a new device.
func fresh(t *testing.T, size int64, o Options) (*Log, *disk.Mem) {
	t.Helper()
	dev := disk.NewMem(size)
	l, _ := open(t, dev, ScanOptions{}, o, nil)
	return l, dev
}

// numbered is a request of records with payloads of the given sizes. Their A is n, their B
// counts down to zero, and the payload follows from both.
func numbered(n uint64, sizes ...int) []Record {
	recs := make([]Record, len(sizes))
	for i, size := range sizes {
		left := uint64(len(sizes) - 1 - i)
		recs[i] = Record{Kind: 1, More: left > 0, Aux: uint32(n) ^ 0x5a5a, A: n, B: left, Payload: content(n, left, size)}
	}
	return recs
}

func content(n, left uint64, size int) []byte {
	p := make([]byte, size)
	src := rand.New(rand.NewPCG(n, left))
	for at := 0; at < size; at += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], src.Uint64())
		copy(p[at:], w[:])
	}
	return p
}

func appendOne(t *testing.T, l *Log, recs []Record) []int64 {
	t.Helper()
	pos := make([]int64, len(recs))
	if err := l.Append(recs, pos); err != nil {
		t.Fatal(err)
	}
	return pos
}

func flush(t *testing.T, l *Log) Point {
	t.Helper()
	p, err := l.Flush()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reader checks what scans show: requests numbered without a gap, whole, and with the
// right payload on the device.
type reader struct {
	dev   disk.Device
	geo   geometry
	reqs  []uint64 // requests that ended
	ends  map[uint64]int64
	inReq bool
	want  uint64 // B of the next record of the open request
	seq   uint64
	full  bool // read payloads
}

func newReader(t *testing.T, dev disk.Device) *reader {
	t.Helper()
	geo, err := geometryOf(dev)
	if err != nil {
		t.Fatal(err)
	}
	return &reader{dev: dev, geo: geo, ends: map[uint64]int64{}, full: true}
}

func (r *reader) visit(f *Frame) error {
	if r.seq != 0 && f.Seq <= r.seq {
		return fmt.Errorf("seq %d after %d", f.Seq, r.seq)
	}
	r.seq = f.Seq
	for i := range f.Records {
		rec := &f.Records[i]
		n := rec.A
		switch {
		case !r.inReq && len(r.reqs) > 0 && n != r.reqs[len(r.reqs)-1]+1:
			return fmt.Errorf("request %d after %d", n, r.reqs[len(r.reqs)-1])
		case r.inReq && rec.B != r.want:
			return fmt.Errorf("request %d: record %d from its end, want %d", n, rec.B, r.want)
		case rec.More != (rec.B > 0) || rec.Kind != 1 || rec.Aux != uint32(n)^0x5a5a:
			return fmt.Errorf("request %d: record %+v", n, rec)
		}
		if r.full {
			p := make([]byte, rec.PayloadLen)
			if _, err := r.dev.ReadAt(p, r.geo.offset(rec.PayloadPos)); err != nil {
				return err
			}
			if crc32.Checksum(p, castagnoli) != rec.PayloadCRC || !bytes.Equal(p, content(n, rec.B, len(p))) {
				return fmt.Errorf("request %d: payload at %#x is wrong", n, rec.PayloadPos)
			}
		}
		r.inReq = rec.More
		r.want = rec.B - 1
		if !rec.More {
			r.reqs = append(r.reqs, n)
			r.ends[n] = f.End()
		}
	}
	if (f.Flags&FlagMore != 0) != r.inReq && len(f.Records) > 0 {
		return fmt.Errorf("frame at %#x: flags %v, open %v", f.Pos, f.Flags, r.inReq)
	}
	return nil
}

// span is the first and last request shown; ok if any was.
func (r *reader) span() (first, last uint64, ok bool) {
	if len(r.reqs) == 0 {
		return 0, 0, false
	}
	return r.reqs[0], r.reqs[len(r.reqs)-1], true
}

// guard is a device that fails writes to live bytes: those that live says are needed.
type guard struct {
	disk.Device
	mu    sync.Mutex
	size  int64
	log   *Log
	wrong error
}

func (g *guard) WriteAt(p []byte, off int64) (int, error) {
	_, err := g.WriteVAt([][]byte{p}, off)
	return len(p), err
}

// WriteVAt checks that [off, off+n) holds no position from the floor to the head.
func (g *guard) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	var n int64
	for _, b := range bufs {
		n += int64(len(b))
	}
	g.mu.Lock()
	if l := g.log; l != nil {
		floor, head := l.floor.Load(), l.Stats().Head
		for pos := floor; pos < head && g.wrong == nil; {
			at := pos % g.size
			piece := min(head-pos, g.size-at)
			if off < at+piece && at < off+n {
				g.wrong = fmt.Errorf("write of %d bytes at offset %#x overwrites live positions %#x to %#x (offset %#x)", n, off, floor, head, at)
			}
			pos += piece
		}
		if n%LineBytes != 0 || off%LineBytes != 0 || off+n > g.size {
			g.wrong = fmt.Errorf("write of %d bytes at offset %#x", n, off)
		}
	}
	g.mu.Unlock()
	return n, disk.WriteV(g.Device, bufs, off)
}

func crcOf(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }
