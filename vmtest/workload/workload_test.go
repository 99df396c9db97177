package workload

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/powercut"
	"jnbd/vmtest/step"
)

// TestMark: a mark comes back as it was; what is no mark, or too long for one, is refused.
func TestMark(t *testing.T) {
	sector := make([]byte, MarkBytes)
	for _, m := range []Mark{
		{Kind: Begin},
		{Seq: 7, Kind: Done, Done: 3},
		{Seq: 1 << 62, Kind: Answered, Number: 1 << 63, Request: &powercut.Request{Off: 1 << 62, N: 1 << 62, FUA: true, Sent: 1 << 62, Replied: 1 << 62, Over: 1 << 62}},
	} {
		if err := m.Encode(sector); err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMark(sector)
		if diff := cmp.Diff(m, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if err := (Mark{Kind: Kind(strings.Repeat("x", MarkBytes))}).Encode(sector); err == nil {
		t.Error("a mark longer than a sector is encoded")
	}
	for name, bad := range map[string][]byte{
		"zeros": make([]byte, MarkBytes), "short": []byte("jnbdmark{}"),
		"no JSON": append([]byte("jnbdmark{"), make([]byte, MarkBytes-9)...),
	} {
		if _, err := DecodeMark(bad); err == nil {
			t.Errorf("%s: taken for a mark", name)
		}
	}
}

// treeAfter is what the files are after operations.
func treeAfter(ops []Op) map[string]step.File {
	contents := make(map[string][]byte)
	for _, op := range ops {
		apply(contents, op)
	}
	files := make(map[string]step.File)
	for name, content := range contents {
		files[name] = step.Describe(name, content)
	}
	return files
}

// TestCheckFiles: the tree before or after the operation under way is good, the tree of one
// operation less or more is not, for every operation of a long history.
func TestCheckFiles(t *testing.T) {
	ops := Ops(1, 300)
	kinds := make(map[OpKind]int)
	for done := range len(ops) {
		kinds[ops[done].Kind]++
		for after := max(0, done-1); after <= min(len(ops), done+2); after++ {
			// What is wrong must not be with a file that may be as it likes.
			if near := ops[max(0, done-1):min(len(ops), done+2)]; after != done && after != done+1 && shareName(near) {
				continue
			}
			err := CheckFiles(ops, done, treeAfter(ops[:after]), true)
			if good := after == done || after == done+1; good != (err == nil) {
				t.Errorf("%d acknowledged, the tree after %d: %v", done, after, err)
			}
		}
	}
	for kind := Create; kind <= Remove; kind++ {
		if kinds[kind] < 10 {
			t.Errorf("%d operations of kind %s", kinds[kind], kind)
		}
	}
	if diff := cmp.Diff(ops[:100], Ops(1, 100)); diff != "" {
		t.Errorf("a seed gives other operations the second time:\n%s", diff)
	}
}

// shareName reports whether two of the operations are about one file.
func shareName(ops []Op) bool {
	seen := make(map[string]bool)
	for _, op := range ops {
		for _, name := range []string{op.Name, op.To} {
			if name != "" && seen[name] {
				return true
			}
			seen[name] = true
		}
	}
	return false
}

// TestCheckFilesUnderWay: what an operation under way may leave, and what not.
func TestCheckFilesUnderWay(t *testing.T) {
	old, changed := []byte("old"), []byte("old and new")
	have := Op{Kind: Create, Name: "a/x", Content: old}
	file := func(name string, content []byte) step.File { return step.Describe(name, content) }
	for _, c := range []struct {
		name   string
		op     Op
		got    []step.File
		atomic bool
		good   bool
	}{
		{"replace, beside it", Op{Kind: Replace, Name: "a/x", Content: changed}, []step.File{file("a/x", old), file("a/x.new", changed[:4])}, true, true},
		{"replace, neither", Op{Kind: Replace, Name: "a/x", Content: changed}, nil, true, false},
		{"replace, torn", Op{Kind: Replace, Name: "a/x", Content: changed}, []step.File{file("a/x", changed[:4])}, true, false},
		{"replace, torn, no promise", Op{Kind: Replace, Name: "a/x", Content: changed}, []step.File{file("a/x", changed[:4])}, false, true},
		{"extend, between", Op{Kind: Extend, Name: "a/x", From: 3, Content: changed}, []step.File{file("a/x", changed[:5])}, true, true},
		{"extend, shorter", Op{Kind: Extend, Name: "a/x", From: 3, Content: changed}, []step.File{file("a/x", old[:2])}, true, false},
		{"extend, changed", Op{Kind: Extend, Name: "a/x", From: 3, Content: changed}, []step.File{file("a/x", []byte("odd"))}, true, false},
		{"rename, neither", Op{Kind: Rename, Name: "a/x", To: "b/y", Content: old}, nil, true, false},
		{"rename, both", Op{Kind: Rename, Name: "a/x", To: "b/y", Content: old}, []step.File{file("a/x", old), file("b/y", old)}, true, false},
		{"remove, changed", Op{Kind: Remove, Name: "a/x"}, []step.File{file("a/x", changed)}, true, false},
		{"create, in part", Op{Kind: Create, Name: "b/y", Content: changed}, []step.File{file("a/x", old), file("b/y", old)}, true, true},
		{"create, another is gone", Op{Kind: Create, Name: "b/y", Content: changed}, []step.File{file("b/y", changed)}, false, false},
		{"create, one too many", Op{Kind: Create, Name: "b/y", Content: changed}, []step.File{file("a/x", old), file("c/z", old)}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(map[string]step.File)
			for _, f := range c.got {
				got[f.Name] = f
			}
			before := maps.Clone(got)
			err := CheckFiles([]Op{have, c.op}, 1, got, c.atomic)
			if (err == nil) != c.good {
				t.Errorf("good is %v, want %v: %v", err == nil, c.good, err)
			}
			if diff := cmp.Diff(before, got); diff != "" {
				t.Errorf("the tree was changed:\n%s", diff)
			}
		})
	}
}

// TestCheckRows: as many transactions as were acknowledged, or one more, each whole.
func TestCheckRows(t *testing.T) {
	for done := range 20 {
		for n := max(0, done-2); n < done+4; n++ {
			if err := CheckRows(done, TableRows(n)); (err == nil) != (n == done || n == done+1) {
				t.Errorf("%d acknowledged, the table after %d: %v", done, n, err)
			}
		}
	}
	// Half of transaction 9 without the other.
	if err := CheckRows(9, strings.Replace(TableRows(9), "5|9|", "5|8|", 1)); err == nil {
		t.Error("a transaction in part is taken for whole")
	}
}

// TestLanes: requests lie within their lane's range; only the last lane trims.
func TestLanes(t *testing.T) {
	const diskBytes = 8 << 20
	lanes := Lanes(1, 3, diskBytes)
	for i, l := range lanes {
		trims, flushes, large := 0, 0, 0
		for range 500 {
			q := l.Next()
			switch {
			case q.Kind == powercut.Flush:
				flushes++
				continue
			case q.Kind == powercut.Trim:
				trims++
			}
			if q.N > 64<<10 {
				large++
			}
			last := i == len(lanes)-1
			if q.Off < 0 || q.N <= 0 || q.N > rawMost || q.Off+q.N > diskBytes || (q.Off >= diskBytes/4*3) != last || (q.Off+q.N > diskBytes/4*3) != last {
				t.Fatalf("lane %d: %s", i, &q)
			}
		}
		if flushes < 20 || large < 20 || (trims > 20) != (i == len(lanes)-1) {
			t.Errorf("lane %d: %d flushes, %d large requests, %d trims", i, flushes, large, trims)
		}
	}
}
