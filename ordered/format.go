package ordered

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The bytes of one stored page; the table with words is FORMAT.md. Little endian throughout.
const (
	// pageBytes is the length of a page. The checksum covers all of it.
	pageBytes = 4096

	offMagic      = 0  //  8
	offVersion    = 8  //  4
	offCRC        = 12 //  4  CRC32C of the page with these four bytes zero
	offGeneration = 16 //  8
	offKind       = 24 //  1
	offReserved1  = 25 //  7  zero
	offNumber     = 32 //  8
	offBlocks     = 40 //  8
	offSlots      = 48 //  8
	offReserved2  = 56 //  8  zero
	offWords      = 64 //  504 of 8
)

const (
	// wordsPerPage is how many words a page holds: slots of the slot table, or children of an
	// index page.
	wordsPerPage = (pageBytes - offWords) / 8
	// bitsPerPage is how many blocks a page of presence bits speaks of.
	bitsPerPage = wordsPerPage * 64
)

// version is the format this program writes.
const version = 1

// maxGeneration is the highest generation that an index entry can hold.
const maxGeneration = uint64(1)<<63 - 1

// magic begins every page. The first byte is no text, and the line feed catches a transfer
// that translated line ends.
var magic = [8]byte{0x8a, 'j', 'n', 'b', 'd', 'w', 'o', '\n'}

// castagnoli is the CRC32C table; the hardware computes it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// le is the byte order of the format.
var le = binary.LittleEndian

// pageKind is what the words of a page mean.
type pageKind uint8

const (
	kindBits  pageKind = 1 // presence: 64 blocks a word, the first one lowest
	kindSlots pageKind = 2 // the block in the slot, plus 1; 0: none
	kindIndex pageKind = 3 // the child's entry
)

func (k pageKind) String() string {
	switch k {
	case kindBits:
		return "bits"
	case kindSlots:
		return "slots"
	case kindIndex:
		return "index"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// An entry says which version of a page counts: the generation of the save that wrote it,
// shifted by one, and the place that it was written to. 0: none, the page is all zero.

func entry(generation, place uint64) uint64 { return generation<<1 | place }

func entryGeneration(e uint64) uint64 { return e >> 1 }

func entryPlace(e uint64) uint64 { return e & 1 }

// otherPlace is where the version after the one that e names goes.
func otherPlace(e uint64) uint64 {
	if e == 0 {
		return 0
	}
	return 1 - entryPlace(e)
}

// page is one decoded page.
type page struct {
	generation uint64
	kind       pageKind
	number     int64
	layout     Layout
	words      [wordsPerPage]uint64
}

// encode lays out p in b, which is pageBytes long.
func (p *page) encode(b []byte) {
	clear(b[:offWords])
	copy(b[offMagic:], magic[:])
	le.PutUint32(b[offVersion:], version)
	le.PutUint64(b[offGeneration:], p.generation)
	b[offKind] = byte(p.kind)
	le.PutUint64(b[offNumber:], uint64(p.number))
	le.PutUint64(b[offBlocks:], uint64(p.layout.Blocks))
	le.PutUint64(b[offSlots:], uint64(p.layout.Slots))
	for i, w := range &p.words {
		le.PutUint64(b[offWords+8*i:], w)
	}
	le.PutUint32(b[offCRC:], checksum(b))
}

// decodePage reads a page, and asserts every field that a page alone can break. Accepted
// bytes encode to themselves. An error wraps ErrTooNew or ErrCorrupt.
func decodePage(b []byte) (*page, error) {
	if [8]byte(b[offMagic:]) != magic {
		return nil, fmt.Errorf("magic % x, want % x: %w", b[offMagic:offVersion], magic, ErrCorrupt)
	}
	if got, want := checksum(b), le.Uint32(b[offCRC:]); got != want {
		return nil, fmt.Errorf("checksum %08x, want %08x: %w", got, want, ErrCorrupt)
	}
	if v := le.Uint32(b[offVersion:]); v > version {
		return nil, fmt.Errorf("format version %d, this program knows up to %d: %w", v, version, ErrTooNew)
	} else if v != version {
		return nil, fmt.Errorf("format version %d, want %d: %w", v, version, ErrCorrupt)
	}
	for _, r := range [...]struct{ from, to int }{{offReserved1, offNumber}, {offReserved2, offWords}} {
		for i := r.from; i < r.to; i++ {
			if b[i] != 0 {
				return nil, fmt.Errorf("reserved byte %d is %#02x, want 0: %w", i, b[i], ErrCorrupt)
			}
		}
	}
	p := &page{
		generation: le.Uint64(b[offGeneration:]),
		kind:       pageKind(b[offKind]),
		number:     int64(le.Uint64(b[offNumber:])),
		layout:     Layout{Blocks: int64(le.Uint64(b[offBlocks:])), Slots: int64(le.Uint64(b[offSlots:]))},
	}
	if err := p.layout.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	tree := newTree(p.layout)
	switch {
	case p.generation == 0 || p.generation > maxGeneration:
		return nil, fmt.Errorf("generation %d, want 1 to %d: %w", p.generation, maxGeneration, ErrCorrupt)
	case p.number < 0 || p.number >= tree.pages:
		return nil, fmt.Errorf("page number %d of %d: %w", p.number, tree.pages, ErrCorrupt)
	case p.kind != tree.kind(p.number):
		return nil, fmt.Errorf("page of %s, want %s: %w", p.kind, tree.kind(p.number), ErrCorrupt)
	}
	for i := range p.words {
		p.words[i] = le.Uint64(b[offWords+8*i:])
	}
	if err := p.checkWords(&tree); err != nil {
		return nil, err
	}
	return p, nil
}

// checkWords asserts the words against the layout and the page's own generation.
func (p *page) checkWords(t *pageTree) error {
	if p.kind == kindBits {
		first := p.number * bitsPerPage
		used := min(bitsPerPage, p.layout.Blocks-first)
		if bits := bitset(p.words[:]); used < bitsPerPage && !bits.all(used, bitsPerPage, false) {
			return fmt.Errorf("presence of blocks beyond the disk's %d: %w", p.layout.Blocks, ErrCorrupt)
		}
		return nil
	}
	used := int64(wordsPerPage)
	limit := uint64(p.layout.Blocks)
	if p.kind == kindSlots {
		used = min(used, p.layout.Slots-(p.number-t.bitPages)*wordsPerPage)
	} else {
		first, end := t.children(p.number)
		used = end - first
		limit = entry(p.generation, 1)
	}
	for i, w := range &p.words {
		switch {
		case w == 0:
		case int64(i) >= used:
			return fmt.Errorf("%s word %d is %d, beyond the %d in use: %w", p.kind, i, w, used, ErrCorrupt)
		case w > limit:
			return fmt.Errorf("%s word %d is %d, want at most %d: %w", p.kind, i, w, limit, ErrCorrupt)
		case p.kind == kindIndex && w < entry(1, 0):
			return fmt.Errorf("index word %d is %d, a generation of 0: %w", i, w, ErrCorrupt)
		}
	}
	return nil
}

// checksum is the CRC32C of a page with the checksum's own field taken as zero.
func checksum(b []byte) uint32 {
	var zero [4]byte
	crc := crc32.Update(0, castagnoli, b[:offCRC])
	crc = crc32.Update(crc, castagnoli, zero[:])
	return crc32.Update(crc, castagnoli, b[offCRC+len(zero):pageBytes])
}
