package journal

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// owner is the model's idea of one byte: which change owns it, and where its byte is.
type owner struct {
	pos   int64
	state state
	set   bool
}

// TestOverlayAgainstBytes holds the extent map against an array with one owner a byte.
func TestOverlayAgainstBytes(t *testing.T) {
	const size = 300
	rapid.Check(t, func(t *rapid.T) {
		var o overlay
		var model [size]owner
		pos, tail := int64(1000), int64(0)
		steps := rapid.IntRange(1, 60).Draw(t, "steps")
		for range steps {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			n := rapid.Int64Range(1, min(size-off, 80)).Draw(t, "n")
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0: // a checkpoint to somewhere
				// Tails lie between frames; here a frame is 100 positions.
				tail = rapid.Int64Range(tail/100, pos/100).Draw(t, "tail") * 100
				o.forget(tail, nil)
				for i := range model {
					if model[i].pos < tail {
						model[i] = owner{}
					}
				}
			case 1, 2:
				st := rapid.SampledFrom([]state{zeroed, zeroKept}).Draw(t, "state")
				o.put(extent{off: off, end: off + n, pos: pos, state: st})
				for i := off; i < off+n; i++ {
					model[i] = owner{pos: pos, state: st, set: true}
				}
				pos += 100
			default:
				o.put(extent{off: off, end: off + n, pos: pos, state: logged, checked: true})
				for i := off; i < off+n; i++ {
					model[i] = owner{pos: pos + i - off, state: logged, set: true}
				}
				pos += 100
			}
			checkOverlay(t, &o, model[:], tail)
		}
	})
}

func checkOverlay(t *rapid.T, o *overlay, model []owner, tail int64) {
	var got [300]owner
	var bytes int64
	last := int64(0)
	for _, e := range o.lookup(nil, 0, int64(len(model))) {
		if e.off < last || e.end <= e.off {
			t.Fatalf("extent [%d,%d) after one that ends at %d", e.off, e.end, last)
		}
		last = e.end
		bytes += e.end - e.off
		for i := e.off; i < e.end; i++ {
			pos := e.pos
			if e.state == logged {
				pos += i - e.off
			}
			got[i] = owner{pos: pos, state: e.state, set: true}
		}
	}
	for i := range model {
		if got[i] != model[i] {
			t.Fatalf("byte %d: overlay has %+v, want %+v", i, got[i], model[i])
		}
	}
	if _, n := o.size(); n != bytes {
		t.Fatalf("overlay counts %d bytes, its extents have %d", n, bytes)
	}
	// A part of it, through the cut, must agree with the whole.
	mid := int64(len(model)) / 3
	for _, e := range o.lookup(nil, mid, 2*mid) {
		if e.off < mid || e.end > 2*mid {
			t.Fatalf("lookup of [%d,%d) answers [%d,%d)", mid, 2*mid, e.off, e.end)
		}
		want := model[e.off]
		if e.pos != want.pos || e.state != want.state {
			t.Fatalf("byte %d through a part: pos %d, want %d", e.off, e.pos, want.pos)
		}
	}
	old, _ := o.below(nil, 0, tail)
	if len(old) != 0 {
		t.Fatalf("after forget(%d) there is still %+v", tail, old[0])
	}
}

// TestLoadIsPutInOrder: sorting must not change who owns what.
func TestLoadIsPutInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		grain := rapid.SampledFrom([]int64{1, 8}).Draw(t, "grain") // 8: whole blocks, the short way
		var put, loaded overlay
		var all []extent
		parts := rapid.IntRange(1, 3).Draw(t, "parts") // the second finds the first's extents
		for i := range rapid.Int64Range(0, 60).Draw(t, "extents") {
			off := rapid.Int64Range(0, 30).Draw(t, "off") * grain
			n := grain
			if grain == 1 {
				n = rapid.Int64Range(1, 12).Draw(t, "n")
			}
			e := extent{off: off, end: off + n, pos: 1000 * (i + 1), state: rapid.SampledFrom([]state{logged, zeroed, zeroKept, disowned}).Draw(t, "state"), checked: true, crc: uint32(i)}
			put.changeLocked(e)
			all = append(all, e)
		}
		for part := range slices.Chunk(all, max(len(all)/parts, 1)) {
			loaded.load(part)
		}
		want, got := put.lookup(nil, 0, 1<<20), loaded.lookup(nil, 0, 1<<20)
		if !slices.Equal(want, got) {
			t.Fatalf("load makes %+v, putting %+v", got, want)
		}
		if _, a := put.size(); a != loaded.bytes {
			t.Fatalf("load counts %d bytes, putting %d", loaded.bytes, a)
		}
	})
}

// TestOverlayChecksum: a checksum belongs to a whole record and must go with its first cut.
func TestOverlayChecksum(t *testing.T) {
	var o overlay
	o.put(extent{off: 0, end: 100, pos: 1000, crc: 7, checked: true})
	o.put(extent{off: 40, end: 50, pos: 2000, crc: 8, checked: true})
	for _, e := range o.lookup(nil, 0, 100) {
		if whole := e.pos == 2000; e.checked != whole {
			t.Errorf("extent [%d,%d) at %d: checked %v, want %v", e.off, e.end, e.pos, e.checked, whole)
		}
	}
	if e := o.lookup(nil, 42, 50)[0]; e.checked {
		t.Error("a part of a record found by lookup still claims the record's checksum")
	}
}

// TestForgetWhileWriting: a split between finding and dropping must leave nothing old.
func TestForgetWhileWriting(t *testing.T) {
	var o overlay
	const blocks = 20000
	for i := range int64(blocks) {
		o.put(extent{off: i * 10, end: i*10 + 10, pos: i})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range int64(blocks) {
			off := (i * 7919 % blocks) * 10
			o.put(extent{off: off + 3, end: off + 6, pos: 1_000_000 + i})
		}
	}()
	o.forget(blocks, nil)
	<-done
	for _, e := range o.lookup(nil, 0, blocks*10) {
		if e.pos < blocks {
			t.Fatalf("extent [%d,%d) of log position %d survived forget(%d)", e.off, e.end, e.pos, int64(blocks))
		}
	}
}
