package logwrites

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/testtool"
)

// readAll lists the entries of a log, one line each.
func readAll(log io.Reader) (lines []string, err error) {
	r, err := NewReader(log)
	if err != nil {
		return nil, err
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		lines = append(lines, describe(e))
	}
}

// describe is an entry in words. Data of one byte again and again is that byte.
func describe(e Entry) string {
	text := fmt.Sprintf("flags %d [%d,+%d)", e.Flags, e.Off, e.N)
	switch {
	case e.Flags&FlagMark != 0:
		text += fmt.Sprintf(" %q", e.Data)
	case e.Data == nil && e.Flags&FlagDiscard == 0 && e.N > 0:
		text += " zeros"
	case len(e.Data) > 0 && bytes.Count(e.Data, e.Data[:1]) == len(e.Data):
		text += fmt.Sprintf(" %d×%#02x", len(e.Data), e.Data[0])
	case len(e.Data) > 0:
		text += fmt.Sprintf(" %d bytes", len(e.Data))
	}
	return text
}

// builder writes a log by hand, to the table in the doc comment.
type builder struct{ bytes.Buffer }

func newBuilder(entries uint64) *builder {
	b := &builder{}
	sector := make([]byte, 512)
	binary.LittleEndian.PutUint64(sector, 0x6a736677736872)
	binary.LittleEndian.PutUint64(sector[8:], 1)
	binary.LittleEndian.PutUint64(sector[16:], entries)
	binary.LittleEndian.PutUint32(sector[24:], 512)
	b.Write(sector)
	return b
}

func (b *builder) entry(first, sectors, flags, mark uint64, data []byte) *builder {
	header := make([]byte, 512)
	for i, field := range []uint64{first, sectors, flags, mark} {
		binary.LittleEndian.PutUint64(header[8*i:], field)
	}
	if flags&FlagMark != 0 {
		copy(header[32:], data)
		data = nil
	}
	b.Write(header)
	b.Write(data)
	return b
}

func sectors(n int, value byte) []byte { return bytes.Repeat([]byte{value}, 512*n) }

// TestGolden: a log that QEMU 7.2 wrote is read as what QEMU was asked to do. (It flushes more
// often than it was asked to.)
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/qemu-7.2.hex")
	if err != nil {
		t.Fatal(err)
	}
	var packed []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			packed = append(packed, strings.TrimSpace(line))
		}
	}
	golden, err := hex.DecodeString(strings.Join(packed, ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(bytes.NewReader(golden))
	want := []string{
		"flags 0 [0,+1024) 1024×0x11",
		"flags 0 [4096,+512) 512×0x22",
		"flags 1 [0,+0)",
		"flags 1 [0,+0)",
		"flags 0 [16384,+512) zeros",
		"flags 4 [32768,+8192)",
		"flags 1 [0,+0)",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestQEMU: the QEMU of this host writes the same format.
func TestQEMU(t *testing.T) {
	testtool.Need(t, "qemu-io")
	dir := t.TempDir()
	disk, log := filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	for path, size := range map[string]int64{disk: 1 << 20, log: 0} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	image := "driver=blklogwrites,log-sector-size=512" +
		",file.driver=raw,file.file.driver=file,file.file.filename=" + disk + ",file.file.discard=unmap" +
		",log.driver=raw,log.file.driver=file,log.file.filename=" + log
	out, err := exec.Command("qemu-io", "--image-opts",
		"-c", "write -P 0x11 0 1k", "-c", "write -P 0x22 4k 512", "-c", "flush",
		"-c", "write -z 16k 512", "-c", "discard 32k 8k", image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := readAll(bufio.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	var changes []string
	for _, line := range got {
		if line != "flags 1 [0,+0)" {
			changes = append(changes, line)
		}
	}
	want := []string{"flags 0 [0,+1024) 1024×0x11", "flags 0 [4096,+512) 512×0x22", "flags 0 [16384,+512) zeros", "flags 4 [32768,+8192)"}
	if diff := cmp.Diff(want, changes); diff != "" || len(got) == len(changes) {
		t.Errorf("%d flushes (-want +got):\n%s", len(got)-len(changes), diff)
	}
}

// TestReader: what is accepted and what is refused, with damage as a column.
func TestReader(t *testing.T) {
	one := "flags 0 [1024,+512) 512×0x01"
	for _, c := range []struct {
		name string
		log  []byte
		want []string
		err  string // part of the error
		is   error
	}{
		{name: "nothing", err: "superblock", is: ErrFormat},
		{name: "no entry", log: newBuilder(0).Bytes()},
		{name: "other magic", log: append([]byte("x"), newBuilder(0).Bytes()[1:]...), err: "magic", is: ErrFormat},
		{name: "next version", log: patch(newBuilder(0).Bytes(), 8, 2), err: "2, want 1", is: ErrVersion},
		{name: "sectors of 744", log: patch(newBuilder(0).Bytes(), 24, 0xe8), err: "744 bytes", is: ErrFormat},
		{
			name: "all kinds", log: newBuilder(5).
				entry(2, 1, 0, 0, sectors(1, 1)).entry(0, 0, FlagFlush, 0, nil).
				entry(8, 1<<40, FlagDiscard, 0, nil).entry(0, 0, FlagMark, 5, []byte("hello")).
				entry(3, 2, FlagFlush|FlagFUA|FlagMetadata, 0, sectors(2, 7)).Bytes(),
			want: []string{one, "flags 1 [0,+0)", "flags 4 [4096,+562949953421312)", `flags 8 [0,+0) "hello"`, "flags 19 [1536,+1024) 1024×0x07"},
		},
		{name: "undercounted", log: newBuilder(0).entry(2, 1, 0, 0, sectors(1, 1)).Bytes(), want: []string{one}},
		{name: "undercounted, the last one torn", log: newBuilder(0).entry(2, 1, 0, 0, sectors(1, 1)).entry(2, 2, 0, 0, sectors(1, 1)).Bytes(), want: []string{one}},
		{name: "undercounted, zeros behind", log: newBuilder(1).entry(2, 1, 0, 0, sectors(1, 1)).entry(0, 0, 0, 0, sectors(9, 0)).Bytes(), want: []string{one}},
		{name: "counted, header missing", log: newBuilder(2).entry(2, 1, 0, 0, sectors(1, 1)).Bytes(), want: []string{one}, err: "entry 2 of 2", is: ErrFormat},
		{name: "counted, data missing", log: newBuilder(1).entry(2, 2, 0, 0, sectors(1, 1)).Bytes(), err: "entry 1 of 1", is: io.ErrUnexpectedEOF},
		{name: "counted, of nothing", log: newBuilder(1).entry(0, 0, 0, 0, nil).Bytes(), err: "a write of nothing", is: ErrFormat},
		{name: "unknown flag", log: newBuilder(1).entry(0, 1, 32, 0, sectors(1, 1)).Bytes(), err: "flags 0x20", is: ErrFormat},
		{name: "longest zeros", log: newBuilder(1).entry(0, MaxEntryBytes/512+1, 0, 0, sectors(MaxEntryBytes/512+1, 0)).Bytes(), want: []string{"flags 0 [0,+67109376) zeros"}},
		{name: "too long for data", log: newBuilder(1).entry(0, MaxEntryBytes/512+1, 0, 0, sectors(1<<11, 1)).Bytes(), err: "bytes of data, at most", is: ErrFormat},
		{name: "too long", log: newBuilder(1).entry(0, MaxZeroBytes/512+1, 0, 0, nil).Bytes(), err: "believed", is: ErrFormat},
		{name: "beyond any device", log: newBuilder(1).entry(1<<54, 1<<54, FlagDiscard, 0, nil).Bytes(), err: "beyond any device", is: ErrFormat},
		{name: "mark with sectors", log: newBuilder(1).entry(0, 1, FlagMark, 1, []byte("x")).Bytes(), err: "a mark of 1 sectors", is: ErrFormat},
		{name: "mark too long", log: newBuilder(1).entry(0, 0, FlagMark, 481, nil).Bytes(), err: "481 bytes, at most 480", is: ErrFormat},
		{name: "mark that is none", log: newBuilder(1).entry(0, 1, 0, 1, sectors(1, 1)).Bytes(), err: "in an entry that is none", is: ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readAll(bytes.NewReader(c.log))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			switch {
			case c.err == "" && err != nil:
				t.Errorf("error %v", err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, c.is)):
				t.Errorf("error %v, want one with %q that is %v", err, c.err, c.is)
			}
		})
	}
}

// patch is log with one byte changed.
func patch(log []byte, at int, value byte) []byte {
	log = bytes.Clone(log)
	log[at] = value
	return log
}

// FuzzReader: no log makes the reader panic or believe more than there is, and what it
// accepts it reads again from what the builder makes of it.
func FuzzReader(f *testing.F) {
	f.Add(newBuilder(2).entry(2, 1, 0, 0, sectors(1, 1)).entry(0, 0, FlagFlush, 0, nil).Bytes())
	f.Add(newBuilder(0).entry(0, 0, FlagMark, 5, []byte("hello")).entry(8, 1<<40, FlagDiscard, 0, nil).Bytes())
	f.Fuzz(func(t *testing.T, log []byte) {
		r, err := NewReader(bytes.NewReader(log))
		if err != nil || r.sector != 512 {
			return
		}
		var want []string
		again := newBuilder(0)
		for {
			e, err := r.Next()
			if err != nil {
				break
			}
			want = append(want, describe(e))
			mark := uint64(0)
			if e.Flags&FlagMark != 0 {
				mark = uint64(len(e.Data))
			}
			data := e.Data
			if data == nil && e.Flags&FlagDiscard == 0 {
				data = make([]byte, e.N)
			}
			again.entry(uint64(e.Off/512), uint64(e.N/512), e.Flags, mark, data)
		}
		got, err := readAll(&again.Buffer)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}
