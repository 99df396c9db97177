package powercut

import (
	"bytes"
	"path/filepath"
	"reflect"
	"testing"

	"jnbd/disk/crashdisk"
)

// byteEvent is a write of 512 bytes of one value into sector i.
func byteEvent(disk int, sector int64, value byte, begin, end int64) Event {
	return Event{Disk: disk, Kind: EventWrite, Off: sector * sectorBytes, N: sectorBytes, Data: bytes.Repeat([]byte{value}, sectorBytes), Begin: begin, End: end}
}

func flushEvent(disk int, begin, end int64) Event {
	return Event{Disk: disk, Kind: EventFlush, Begin: begin, End: end}
}

// The recording's overlaps are the replay's, and a flush covers what it covered.
func TestReplayCovers(t *testing.T) {
	rec := &Recording{
		DeviceBytes: []int64{8 * sectorBytes, 8 * sectorBytes},
		Events: []Event{
			byteEvent(backingDisk, 0, 1, 1, 2),
			byteEvent(journalDisk, 0, 2, 3, 4),
			byteEvent(backingDisk, 1, 3, 5, 8), // under way when the flush begins
			flushEvent(backingDisk, 6, 11),
			byteEvent(backingDisk, 2, 4, 7, 9), // during it
			{Disk: backingDisk, Kind: EventWrite, Off: 3 * sectorBytes, N: sectorBytes, Begin: 10, End: 12},
			byteEvent(backingDisk, 4, 5, 13, 0), // never returned
		},
	}
	tests := []struct {
		cut       int
		image     int64
		backing   []byte // sectors 0 to 4
		journal   byte   // sector 0
		unflushed int
	}{
		{0, crashdisk.SeedKill, []byte{0, 0, 0, 0, 0}, 0, 0},
		{2, crashdisk.SeedLost, []byte{0, 0, 0, 0, 0}, 0, 1},
		{2, crashdisk.SeedKill, []byte{1, 0, 0, 0, 0}, 0, 1},
		{10, crashdisk.SeedLost, []byte{0, 0, 0, 0, 0}, 0, 5}, // just before the flush returns
		{11, crashdisk.SeedLost, []byte{1, 0, 0, 0, 0}, 0, 4}, // just after
		{13, crashdisk.SeedLost, []byte{1, 0, 0, 0, 0}, 0, 5},
		{13, crashdisk.SeedKill, []byte{1, 3, 4, 0, 5}, 2, 5},
	}
	for _, test := range tests {
		r := newReplay(rec, Honest)
		if err := r.to(test.cut); err != nil {
			t.Fatal(err)
		}
		if r.unflushed() != test.unflushed {
			t.Errorf("cut %d: %d unflushed, want %d", test.cut, r.unflushed(), test.unflushed)
		}
		image := r.group.Image(test.image)
		backing, journal := image.Lookup("backing").Snapshot(), image.Lookup("journal").Snapshot()
		for s, want := range test.backing {
			if got := backing[s*sectorBytes]; got != want {
				t.Errorf("cut %d image %d: sector %d holds %d, want %d", test.cut, test.image, s, got, want)
			}
		}
		if journal[0] != test.journal {
			t.Errorf("cut %d image %d: journal holds %d, want %d", test.cut, test.image, journal[0], test.journal)
		}
		r.end()
	}
}

func TestReplayLies(t *testing.T) {
	rec := &Recording{DeviceBytes: []int64{64 * sectorBytes}, Created: 5}
	for i := range int64(9) { // one write and flush before the disk was created, eight after
		rec.Events = append(rec.Events, byteEvent(backingDisk, i, 9, 4*i+1, 4*i+2), flushEvent(backingDisk, 4*i+3, 4*i+4))
	}
	for lie, want := range map[Lie]struct{ ignored, durable int }{Honest: {0, 9}, SomeFlushes: {2, 9}, NoFlush: {8, 1}} {
		r := newReplay(rec, lie)
		if err := r.to(len(r.moments)); err != nil {
			t.Fatal(err)
		}
		durable := bytes.Count(r.group.Image(crashdisk.SeedLost).Lookup("backing").Medium(), bytes.Repeat([]byte{9}, sectorBytes))
		if durable != want.durable || r.ignored != want.ignored {
			t.Errorf("lie %d: %d flushes ignored, %d sectors are durable, want %+v", lie, r.ignored, durable, want)
		}
		r.end()
	}
}

func TestRecordingIsSaved(t *testing.T) {
	rec := &Recording{
		DeviceBytes: []int64{8192}, DiskBytes: 4096, Mode: "data", Seed: 3, Created: 2,
		Events:   []Event{byteEvent(backingDisk, 0, 1, 1, 2), flushEvent(backingDisk, 3, 0)},
		Requests: []Request{fua(req(Write, 0, 1, 4, 5)), seen(req(Trim, 1, 2, 6, 0), 7)},
	}
	path := filepath.Join(t.TempDir(), "a.rec")
	if err := rec.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := LoadRecording(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("loaded %+v, want %+v", got, rec)
	}
}

func TestParseState(t *testing.T) {
	for text, want := range map[string]State{"0:0": {}, "12:345": {12, 345}} {
		if got, err := ParseState(text); err != nil || got != want || got.String() != text {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1:", ":1", "1:2x", " 1:2", "-1:2", "01:2", "1:2:3"} {
		if got, err := ParseState(text); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}
