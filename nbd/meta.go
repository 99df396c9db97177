package nbd

import "encoding/binary"

// metaContext is NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT ("Metadata
// querying" in proto.md). A SET replaces what an earlier one has selected, also when it
// fails.
//
//	data: 0 length of export (4) | 4 export | count (4) | count queries: length (4), query
func (c *conn) metaContext(a *answers, data []byte) {
	set := a.option == optSetMetaContext
	if set {
		c.agreed.metaExport = nil
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
	case !c.agreed.structured:
		a.refuse(repErrInvalid, "meta contexts need structured replies, which were not agreed")
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
	if selects(queries, set) {
		id := uint32(0) // reserved in the answer to LIST
		if set {
			id = baseAllocationID
			c.agreed.metaExport = x
		}
		a.add(repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), contextBaseAllocation...))
	}
	a.add(repAck, nil)
}

// selects reports whether queries ask for base:allocation. LIST also understands no query
// at all, and the bare namespace, as "everything".
func selects(queries []string, set bool) bool {
	if !set && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == contextBaseAllocation || !set && q == contextNamespaceBase {
			return true
		}
	}
	return false
}
