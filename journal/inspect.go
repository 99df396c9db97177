package journal

import (
	"jnbd/jsuper"
	"jnbd/wal"
)

// InspectOptions say how closely to look.
type InspectOptions struct {
	VerifyAll bool // checksum every payload, also where an index would do
	Direct    bool // read the medium, not the page cache
}

// Report is what a disk's journal holds.
type Report struct {
	Super          *jsuper.Superblock
	Scan           *wal.ScanResult
	OverlayExtents int   // ranges whose newest version is not home
	OverlayBytes   int64 // bytes in them

	// Of the write-once side; 0 without one.
	DisplacedBytes int64 // in spare slots
	SpareBytes     int64 // the spare area
	SpareUsedBytes int64 // of it in use
}

// Inspect looks at a disk as Open would, and writes nothing. Its errors are of the same
// kinds. The report is as complete as the looking got, also beside an error.
func Inspect(p Parts, opt InspectOptions) (*Report, error) {
	r := &Report{}
	super, err := loadSuper(p, nil, true)
	if err != nil {
		return r, err
	}
	r.Super = super
	d, err := newDisk(p, p.Backing, nil, super, Options{ReadOnly: true})
	if err != nil {
		return r, err
	}
	if r.Scan, err = d.replay(p, wal.CutPrefix, opt.VerifyAll, opt.Direct); err != nil {
		return r, err
	}
	r.OverlayExtents, r.OverlayBytes = d.overlay.size()
	r.DisplacedBytes, r.SpareBytes, r.SpareUsedBytes = d.onceBytes()
	return r, d.checkBacking(false)
}
