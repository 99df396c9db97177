package attach

import (
	"errors"
	"strings"
	"testing"

	"jnbd/nbd/nbdclient"
)

const disk, other = "0b5c0203-0405-4607-8809-0a0b0c0d0e0f", "1b5c0203-0405-4607-8809-0a0b0c0d0e0f"

func TestIdentity(t *testing.T) {
	want := Identity{Disk: disk, Incarnation: "00ab34cd56ef7890"}
	text := want.Describe(1<<64 - 1)
	got, seq, ok := ParseIdentity(text)
	if !ok || got != want || seq != 1<<64-1 {
		t.Errorf("%q is read as %+v at %d, %v", text, got, seq, ok)
	}
	if _, _, ok := ParseIdentity(text + ": accounts"); !ok {
		t.Error("the operator's own words hide the identity")
	}
	if got, want := want.Backend(), disk+"/00ab34cd56ef7890"; got != want {
		t.Errorf("backend %q, want %q", got, want)
	}
	for _, text := range []string{
		"", "a disk", "jnbd disk " + disk, strings.Replace(text, "-", "", 1), strings.ToUpper(text),
		"jnbd disk " + disk + " incarnation 00ab34cd56ef789 at 1", text + "0", "x" + text[5:], "a " + text,
	} {
		if got, _, ok := ParseIdentity(text); ok {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// TestMayFollow: what a device goes on with, and what it never does.
func TestMayFollow(t *testing.T) {
	was := export{size: 1 << 20, flags: nbdclient.CanFlush | nbdclient.CanFUA, identity: Identity{disk, "1"}, seq: 100}
	for _, c := range []struct {
		name   string
		change func(*export)
		want   error
	}{
		{"the same", func(*export) {}, nil},
		{"further on", func(e *export) { e.seq = 200 }, nil},
		{"grown", func(e *export) { e.size++ }, nil},
		{"can more", func(e *export) { e.flags |= nbdclient.CanZero }, nil},
		{"another disk", func(e *export) { e.identity.Disk = other }, ErrOtherDisk},
		{"not jnbd", func(e *export) { e.identity = Identity{} }, ErrOtherDisk},
		{"another incarnation", func(e *export) { e.identity.Incarnation = "2" }, ErrRolledBack},
		{"an old copy", func(e *export) { e.seq = 99 }, ErrRolledBack},
		{"shrunk", func(e *export) { e.size-- }, ErrOtherDisk},
		{"can't flush", func(e *export) { e.flags &^= nbdclient.CanFlush }, ErrOtherDisk},
		{"read-only", func(e *export) { e.flags |= nbdclient.ReadOnly }, ErrOtherDisk},
	} {
		now := was
		c.change(&now)
		if err := was.mayFollow(now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
