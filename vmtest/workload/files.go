package workload

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"jnbd/vmtest/step"
)

// OpKind is what happens to a file.
type OpKind int

const (
	// Create makes Name with Content.
	Create OpKind = iota
	// Replace writes Content beside Name, under Temporary, and renames that over Name.
	Replace
	// Rename gives Name the name To, which is free.
	Rename
	// Extend appends to Name what Content has more than before.
	Extend
	// Remove takes Name away.
	Remove
)

func (k OpKind) String() string {
	return [...]string{"create", "replace", "rename", "extend", "remove"}[k]
}

// Temporary is the name of a file before it replaces name.
func Temporary(name string) string { return name + ".new" }

// Dirs are the directories that the files lie in.
var Dirs = []string{"a", "b", "c"}

// Op is one operation. All names are below the workload's directory.
type Op struct {
	Kind    OpKind
	Name    string
	To      string // of Rename
	Content []byte // the whole file as it is afterwards
	From    int    // of Extend: how much was there before, in bytes
}

func (o Op) String() string {
	if o.Kind == Rename {
		return fmt.Sprintf("rename %s to %s", o.Name, o.To)
	}
	return fmt.Sprintf("%s %s (%d bytes)", o.Kind, o.Name, len(o.Content))
}

// maxLive is how many files there are at most, so that looking at all of them stays cheap.
const maxLive = 24

// Ops are the first n operations of a seed. They are the same in guest and host.
func Ops(seed uint64, n int) []Op {
	random := rand.New(rand.NewPCG(seed, 11))
	contents := make(map[string][]byte)
	var ops []Op
	for i := range n {
		op := nextOp(random, i, contents)
		apply(contents, op)
		ops = append(ops, op)
	}
	return ops
}

// nextOp chooses an operation on the files there are.
func nextOp(random *rand.Rand, i int, contents map[string][]byte) Op {
	content := func() []byte {
		p := make([]byte, 1+random.IntN(1<<(4+random.IntN(12))))
		for k := range p {
			p[k] = byte(random.Uint32())
		}
		return p
	}
	fresh := path.Join(Dirs[random.IntN(len(Dirs))], fmt.Sprintf("file-%04d", i))
	if len(contents) < 4 {
		return Op{Kind: Create, Name: fresh, Content: content()}
	}
	names := slices.Sorted(maps.Keys(contents))
	name := names[random.IntN(len(names))]
	switch draw := random.IntN(10); {
	case draw < 4 && len(contents) < maxLive:
		return Op{Kind: Create, Name: fresh, Content: content()}
	case draw < 6:
		return Op{Kind: Replace, Name: name, Content: content()}
	case draw < 7:
		return Op{Kind: Rename, Name: name, To: fresh, Content: contents[name]}
	case draw < 8:
		return Op{Kind: Extend, Name: name, From: len(contents[name]), Content: slices.Concat(contents[name], content())}
	}
	return Op{Kind: Remove, Name: name}
}

// apply performs an operation on contents by name.
func apply(contents map[string][]byte, op Op) {
	switch op.Kind {
	case Rename:
		delete(contents, op.Name)
		contents[op.To] = op.Content
	case Remove:
		delete(contents, op.Name)
	default:
		contents[op.Name] = op.Content
	}
}

// CheckFiles says what is wrong with a tree after a crash, or nil. done operations had been
// acknowledged, and the next one may have been under way. atomic says that the file system
// promises a rename to be seen whole or not at all; without it only files that the operation
// under way does not touch are looked at.
func CheckFiles(ops []Op, done int, got map[string]step.File, atomic bool) error {
	contents := make(map[string][]byte)
	for _, op := range ops[:done] {
		apply(contents, op)
	}
	want := make(map[string]step.File)
	for name, content := range contents {
		want[name] = step.Describe(name, content)
	}
	got = maps.Clone(got)
	if done < len(ops) {
		if err := settle(ops[done], want, got, atomic); err != nil {
			return fmt.Errorf("%d operations acknowledged, and under way: %s: %w", done, ops[done], err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		there, ok := got[name]
		if !ok {
			return fmt.Errorf("%d operations acknowledged: %s is missing", done, name)
		}
		if there != want[name] {
			return fmt.Errorf("%d operations acknowledged: %s has %d bytes with checksum %x, want %d with %x",
				done, name, there.Size, there.CRC64, want[name].Size, want[name].CRC64)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			return fmt.Errorf("%d operations acknowledged: %s is there, and was never made or was removed", done, name)
		}
	}
	return nil
}

// settle takes what the operation under way touches out of want and got, if it is as it may
// be: as before, as after, or between where that is no more than the file system promises.
func settle(op Op, want, got map[string]step.File, atomic bool) error {
	before := want[op.Name]
	there, has := got[op.Name]
	after := step.Describe(op.Name, op.Content)
	to, hasTo := got[op.To]
	delete(want, op.Name)
	for _, name := range []string{op.Name, op.To, Temporary(op.Name)} {
		delete(got, name)
	}
	if !atomic {
		return nil
	}
	switch {
	case op.Kind == Create: // its content comes later than its name
	case op.Kind == Replace && (!has || there != before && there != after):
		return fmt.Errorf("neither the old nor the new content: there %v, %d bytes", has, there.Size)
	case op.Kind == Remove && has && there != before:
		return fmt.Errorf("changed before it was removed: %d bytes, want %d", there.Size, before.Size)
	case op.Kind == Extend && (!has || there.Size < before.Size || there.Size > after.Size ||
		there.Size == before.Size && there != before || there.Size == after.Size && there != after):
		return fmt.Errorf("neither before nor after nor between: there %v, %d bytes", has, there.Size)
	case op.Kind == Rename && (has == hasTo || has && there != before || hasTo && to != step.Describe(op.To, op.Content)):
		return fmt.Errorf("old name %v, new name %v, want one of them with %d bytes", has, hasTo, len(op.Content))
	}
	return nil
}

// CheckDurable says which file that was durable is missing after a crash, or nil. done
// operations had been acknowledged; up to more of them may have been under way, and files that
// those touch are not looked at.
func CheckDurable(ops []Op, done, more int, got map[string]step.File) error {
	contents := make(map[string][]byte)
	for _, op := range ops[:done] {
		apply(contents, op)
	}
	for _, op := range ops[done:min(len(ops), done+more)] {
		delete(contents, op.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if want := step.Describe(name, contents[name]); got[name] != want {
			return fmt.Errorf("%d operations acknowledged: %s is missing or has other content (%d bytes, want %d)", done, name, got[name].Size, want.Size)
		}
	}
	return nil
}
