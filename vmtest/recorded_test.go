package vmtest

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/disk/crashdisk"
	"jnbd/vmtest/logwrites"
	"jnbd/vmtest/workload"
)

// TestCreatePartitioned: the partition table, byte for byte, and where the partitions are.
func TestCreatePartitioned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	got, err := CreatePartitioned(path, 3<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Range{{1 << 20, 3 << 20}, {4 << 20, 1 << 20}}, got); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	image, err := os.ReadFile(path)
	if err != nil || len(image) != 5<<20 {
		t.Fatalf("%d bytes, %v", len(image), err)
	}
	want := "00000000" + "83000000" + "00080000" + "00180000" + // first sector 2048, 6144 sectors
		"00000000" + "83000000" + "00200000" + "00080000" +
		"00000000000000000000000000000000" + "00000000000000000000000000000000" + "55aa"
	if got := hex.EncodeToString(image[446:512]); got != want {
		t.Errorf("table %s, want %s", got, want)
	}
	if _, err := CreatePartitioned(path, 1, 1, 1, 1, 1); err == nil {
		t.Error("five partitions fit")
	}
}

// TestPlayer: a flush covers what the log has before it, a lie does not, and marks count only
// when they are before the cut.
func TestPlayer(t *testing.T) {
	marks := Range{8192, 4096}
	tp := &tape{disks: []Range{{0, 4096}, {4096, 4096}}}
	mark := func(m workload.Mark) logwrites.Entry {
		sector := make([]byte, workload.MarkBytes)
		if err := m.Encode(sector); err != nil {
			t.Fatal(err)
		}
		return logwrites.Entry{Off: 8192, N: 512, Data: sector}
	}
	ones := make([]byte, 512)
	for i := range ones {
		ones[i] = 1
	}
	for _, e := range []logwrites.Entry{
		mark(workload.Mark{Kind: workload.Begin}),
		{Off: 512, N: 512, Data: ones},
		{Flags: logwrites.FlagFlush},
		mark(workload.Mark{Kind: workload.Done, Done: 1}),
		{Off: 4096, N: 512, Data: ones},
		{Flags: logwrites.FlagDiscard, Off: 512, N: 512},
	} {
		if err := tp.add(e, marks); err != nil {
			t.Fatal(err)
		}
	}
	if err := tp.add(logwrites.Entry{Off: 4000, N: 512, Data: ones}, marks); err == nil {
		t.Error("a write across two partitions is taken")
	}
	for _, c := range []struct {
		lie             lie
		cut             int
		image           int64
		first, second   byte // what the two sectors begin with
		done, unflushed int
	}{
		{lie: honest, cut: 2, image: crashdisk.SeedLost, unflushed: 1},
		{lie: honest, cut: 2, image: crashdisk.SeedKill, first: 1, unflushed: 1},
		{lie: honest, cut: 3, image: crashdisk.SeedLost, first: 1},
		{lie: honest, cut: 4, image: crashdisk.SeedLost, first: 1, done: 1},
		{lie: honest, cut: 6, image: crashdisk.SeedLost, first: 1, done: 1, unflushed: 2},
		{lie: honest, cut: 6, image: crashdisk.SeedKill, second: 1, done: 1, unflushed: 2},
		{lie: noFlush, cut: 4, image: crashdisk.SeedLost, done: 1, unflushed: 1},
	} {
		p := newPlayer(tp, c.lie)
		if err := p.to(c.cut); err != nil {
			t.Fatal(err)
		}
		g := p.group.Image(c.image)
		first, second := g.Lookup("disk0").Snapshot()[512], g.Lookup("disk1").Snapshot()[0]
		if first != c.first || second != c.second || p.done != c.done || p.unflushed != c.unflushed {
			t.Errorf("%+v: got %d and %d, %d done, %d unflushed", c, first, second, p.done, p.unflushed)
		}
	}
}
