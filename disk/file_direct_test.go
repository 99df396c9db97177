package disk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Writes past the page cache and ordinary ones, wherever they lie in the file and in memory, and in
// however many buffers, are one and the same to every reader; also where the file system has no O_DIRECT.
func TestWriteDirect(t *testing.T) {
	const size = 4 << 20
	for _, refused := range []bool{false, true} {
		f := newFile(t, size)
		f.direct.refused = refused
		rnd := rand.New(rand.NewPCG(1, 2))
		want := make([]byte, size)
		memory := alignedBuffer(size)
		for i := range 300 {
			off, n := rnd.Int64N(size), rnd.Int64N(1<<20)
			if i%2 == 0 { // whole blocks
				off, n = off/directAlign*directAlign, n/directAlign*directAlign
			}
			n = min(n, size-off)
			shift := rnd.Int64N(2) * rnd.Int64N(directAlign)
			p := memory[min(shift, size-n):][:n]
			for k := range p {
				p[k] = byte(i + k)
			}
			write := f.WriteDirectVAt
			if i%3 == 0 {
				write = f.WriteVAt
			}
			// One buffer; two in a place of their own each; and one that is not whole blocks.
			cuts := [][]byte{p}
			if half := n / 2 / directAlign * directAlign; i%5 > 1 {
				second := alignedBuffer(size)[rnd.Int64N(2)*rnd.Int64N(directAlign):]
				cuts = [][]byte{p[:half], second[:copy(second, p[half:])], nil}
			}
			if i%5 == 4 && n > 0 {
				cuts = [][]byte{p[:n-1], nil, p[n-1:]}
			}
			if k, err := write(cuts, off); err != nil || k != n {
				t.Fatalf("O_DIRECT refused %v: write [%d,+%d) in %d: %d, %v", refused, off, n, len(cuts), k, err)
			}
			copy(want[off:], p)
			got := make([]byte, n)
			if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:off+n]) {
				t.Fatalf("O_DIRECT refused %v: [%d,+%d) reads as something else (%v)", refused, off, n, err)
			}
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if err := readAll(f, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("O_DIRECT refused %v: the file is not what was written (%v)", refused, err)
		}
	}
}
