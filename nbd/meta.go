package nbd

import (
	"encoding/binary"
	"strings"
)

// metaContexts are the contexts that there are ("Metadata querying" in proto.md, and QEMU's
// docs/interop/nbd.txt for the qemu namespace), by what they make of an extent.
var metaContexts = [...]struct {
	id    uint32 // by which replies name it
	name  string
	state func(hole, zero bool) uint32
}{
	{1, "base:allocation", allocationState},
	{2, "qemu:allocation-depth", allocationDepth},
}

const (
	stateHole uint32 = 1 << 0
	stateZero uint32 = 1 << 1
)

// allocationState is what base:allocation tells of an extent.
func allocationState(hole, zero bool) uint32 {
	var flags uint32
	if hole {
		flags |= stateHole
	}
	if zero {
		flags |= stateZero
	}
	return flags
}

// allocationDepth is what qemu:allocation-depth tells: which layer of a chain of images
// holds the extent. There is one layer here, so it is that or none.
func allocationDepth(hole, _ bool) uint32 {
	if hole {
		return 0
	}
	return 1
}

// contextSet is a set of metaContexts: bit i stands for the one at i.
type contextSet uint8

func (s contextSet) has(i int) bool { return s&(1<<i) != 0 }

// count is the number of contexts in the set.
func (s contextSet) count() int {
	n := 0
	for i := range metaContexts {
		if s.has(i) {
			n++
		}
	}
	return n
}

// metaContext is NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. A SET replaces what
// an earlier one has selected, also when it fails.
//
//	data: 0 length of export (4) | 4 export | count (4) | count queries: length (4), query
func (c *conn) metaContext(a *answers, data []byte) {
	set := a.option == optSetMetaContext
	if set {
		c.agreed.metaExport, c.agreed.contexts = nil, 0
	}
	f := fields{rest: data}
	name := f.text()
	var queries []string
	for range f.uint32() {
		if f.bad {
			break // a count that the data can't hold
		}
		queries = append(queries, f.text())
	}
	switch {
	case f.bad || len(f.rest) != 0:
		a.refuse(repErrInvalid, "the lengths inside the option do not add up to its %d bytes", len(data))
		return
	case !c.agreed.style.chunked():
		a.refuse(repErrInvalid, "meta contexts need structured replies or extended headers, which were not agreed")
		return
	}
	for _, q := range queries {
		if err := validName(q); err != nil {
			a.refuse(repErrInvalid, "query %v", err)
			return
		}
	}
	x := c.ask(a, name)
	if x == nil {
		return
	}
	defer c.server.letGo(x)
	selected := selectContexts(queries, set)
	for i, context := range metaContexts {
		if !selected.has(i) {
			continue
		}
		id := context.id
		if !set {
			id = 0 // reserved in the answer to LIST
		}
		a.add(repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), context.name...))
	}
	a.add(repAck, nil)
	if set && selected != 0 {
		c.agreed.metaExport, c.agreed.contexts = x, selected
	}
}

// selectContexts are the contexts that queries ask for. LIST also understands no query at
// all, and a bare namespace, as "everything".
func selectContexts(queries []string, set bool) contextSet {
	var selected contextSet
	for i, context := range metaContexts {
		namespace, _, _ := strings.Cut(context.name, ":")
		wanted := !set && len(queries) == 0
		for _, q := range queries {
			wanted = wanted || q == context.name || !set && q == namespace+":"
		}
		if wanted {
			selected |= 1 << i
		}
	}
	return selected
}
