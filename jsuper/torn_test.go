package jsuper

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"jnbd/disk"
)

// slotsOf are the slots of a device, and which one is the newest.
func slotsOf(t *testing.T, dev disk.Device, placement Placement) (slots [2]Slot, newest int) {
	t.Helper()
	slots, err := ReadSlots(dev, placement)
	if err != nil {
		t.Fatal(err)
	}
	if slots[1].Generation > slots[0].Generation {
		newest = 1
	}
	return slots, newest
}

// TestMayBeTorn: whatever sectors of a save a crash leaves, the slot may be torn, in whichever
// state the disk was saved before; a byte that changed by itself, or a slot that was wiped,
// is damage.
func TestMayBeTorn(t *testing.T) {
	for _, state := range []State{Clean, Dirty, Closed} {
		sb := sample()
		dev := saved(t, sb, 2)
		store := NewStore(dev, sb.Placement)
		if _, err := store.Load(); err != nil {
			t.Fatal(err)
		}
		sb.State, sb.UpdatedAt = state, sb.UpdatedAt.Add(time.Second)
		sb.StateGeneration++
		if err := store.Save(sb); err != nil {
			t.Fatal(err)
		}
		slots, newest := slotsOf(t, dev, sb.Placement)
		survivor, old := slots[newest], slots[1-newest]
		sb.UpdatedAt = sb.UpdatedAt.Add(time.Second)
		sb.StateGeneration++
		if err := store.Save(sb); err != nil {
			t.Fatal(err)
		}
		slots, _ = slotsOf(t, dev, sb.Placement)
		next := slots[1-newest]

		asked := func(content []byte) bool {
			lost := judge(content, sb.Placement, dev.Size())
			if lost.Super != nil {
				t.Fatal("the slot is whole")
			}
			return MayBeTorn(lost, survivor)
		}
		for first, rest := range map[string][2][]byte{
			"new head": {next.content, old.content}, "old head": {old.content, next.content},
		} {
			if torn := append(bytes.Clone(rest[0][:512]), rest[1][512:]...); !asked(torn) {
				t.Errorf("state %s, torn, %s: said to be damage", state, first)
			}
		}
		damaged := map[string][]byte{
			"wiped":          make([]byte, slotBytes),
			"other disk":     bytes.Repeat([]byte{0xff}, slotBytes),
			"garbage behind": bytes.Clone(old.content),
		}
		copy(damaged["garbage behind"][3000:], "garbage")
		for at := 0; at < slotBytes; at += 13 {
			if at >= tornBytes && at < offReserved3 {
				continue // a torn save may differ by as little
			}
			flipped := bytes.Clone(old.content)
			flipped[at] ^= byte(1 << (at % 8))
			damaged[fmt.Sprintf("byte %d", at)] = flipped
		}
		for name, content := range damaged {
			if asked(content) {
				t.Errorf("state %s, %s: taken for torn", state, name)
			}
		}
	}
}

// TestMayBeTornAtFirst: a journal's second save may find anything in its slot.
func TestMayBeTornAtFirst(t *testing.T) {
	sb := sample()
	dev := saved(t, sb, 1)
	slots, newest := slotsOf(t, dev, sb.Placement)
	if !MayBeTorn(slots[1-newest], slots[newest]) {
		t.Error("an empty slot beside a first save is damage")
	}
	if MayBeTorn(slots[newest], slots[newest]) || MayBeTorn(slots[1-newest], slots[1-newest]) {
		t.Error("a whole slot, or one without a survivor, is said to be torn")
	}
}
