package attach

import (
	"fmt"
	"regexp"
)

// Identity says which disk an export is, and which of its histories: jnbd changes the
// incarnation when writes that it had replied to may have been lost. A device that was
// attached to one identity must never go on with another.
type Identity struct {
	Disk        string // its UUID, 8-4-4-4-12 hex digits
	Incarnation string // 16 hex digits
}

// identityForm is how an export's description spells its identity (decision 14). The
// description is the one thing that every client gets in the same exchange that gives it the
// connection, so that no other server can slip in between.
var identityForm = regexp.MustCompile(`\bdisk ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) incarnation ([0-9a-f]{16})\b`)

// Describe is the description of an export with this identity.
func (i Identity) Describe() string {
	return fmt.Sprintf("jnbd disk %s incarnation %s", i.Disk, i.Incarnation)
}

// ParseIdentity finds the identity in a description. Servers that are not jnbd have none.
func ParseIdentity(description string) (Identity, bool) {
	found := identityForm.FindStringSubmatch(description)
	if found == nil {
		return Identity{}, false
	}
	return Identity{Disk: found[1], Incarnation: found[2]}, true
}

// Backend is the identity as the kernel keeps it for a device. The zero Identity has none.
func (i Identity) Backend() string {
	if i == (Identity{}) {
		return ""
	}
	return i.Disk + "/" + i.Incarnation
}
