package attach

import (
	"fmt"
	"regexp"
	"strconv"
)

// Identity says which disk an export is, and which of its histories: jnbd changes the
// incarnation when writes that it had replied to may have been lost. A device that was
// attached to one identity must never go on with another.
type Identity struct {
	Disk        string // its UUID, 8-4-4-4-12 hex digits
	Incarnation string // 16 hex digits
}

// identityForm is how an export's description spells its identity, and how far it has come
// (decision 12). The description is the one thing that every client gets in the exchange that
// gives it the connection, so that no other server can slip in between.
var identityForm = regexp.MustCompile(`^jnbd disk ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) incarnation ([0-9a-f]{16}) at ([0-9]{1,20})(?:$|: )`)

// Describe is how the description of an export with this identity begins; more may follow
// behind a colon. seq is above the sequence
// number of every write that was replied to, and never goes back within an incarnation.
func (i Identity) Describe(seq uint64) string {
	return fmt.Sprintf("jnbd disk %s incarnation %s at %d", i.Disk, i.Incarnation, seq)
}

// ParseIdentity finds the identity in a description. Servers that are not jnbd have none.
func ParseIdentity(description string) (i Identity, seq uint64, ok bool) {
	found := identityForm.FindStringSubmatch(description)
	if found == nil {
		return Identity{}, 0, false
	}
	seq, err := strconv.ParseUint(found[3], 10, 64)
	if err != nil {
		return Identity{}, 0, false
	}
	return Identity{Disk: found[1], Incarnation: found[2]}, seq, true
}

// Backend is the identity as the kernel keeps it for a device. The zero Identity has none.
func (i Identity) Backend() string {
	if i == (Identity{}) {
		return ""
	}
	return i.Disk + "/" + i.Incarnation
}
