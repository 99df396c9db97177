package vmtest

import (
	"encoding/binary"
	"fmt"
	"os"
)

// RecordedDisk is a disk whose every write and flush QEMU notes in a log, in the order in
// which they completed, for package logwrites to read.
type RecordedDisk struct {
	Path string // raw image file
	Log  string // file, empty at the start
}

// arguments are those of QEMU. What the host has on its own medium does not matter, so QEMU
// passes no flush on to it.
func (d *RecordedDisk) arguments() []string {
	return []string{
		"-blockdev", "driver=file,node-name=recorded-file,discard=unmap,cache.no-flush=on,filename=" + quoted(d.Path),
		"-blockdev", "driver=raw,node-name=recorded-raw,discard=unmap,file=recorded-file",
		"-blockdev", "driver=file,node-name=log-file,cache.no-flush=on,filename=" + quoted(d.Log),
		"-blockdev", "driver=raw,node-name=log-raw,file=log-file",
		"-blockdev", "driver=blklogwrites,node-name=recorded,discard=unmap,file=recorded-raw,log=log-raw,log-sector-size=512",
		"-device", "virtio-blk-pci,drive=recorded",
	}
}

// Range is a part of a disk, in bytes.
type Range struct{ Off, N int64 }

// partitionLine is what partitions begin and end on.
const partitionLine = 1 << 20

// CreatePartitioned makes a sparse image file with partitions of the given sizes, at most
// four, and returns where they lie. The guest's kernel calls the first of them /dev/vda1.
func CreatePartitioned(path string, sizes ...int64) (partitions []Range, err error) {
	const mbrBytes, tableAt, entryBytes, mostEntries = 512, 446, 16, 4
	if len(sizes) > mostEntries {
		return nil, fmt.Errorf("%d partitions, at most %d fit", len(sizes), mostEntries)
	}
	mbr := make([]byte, mbrBytes)
	end := int64(partitionLine)
	for i, size := range sizes {
		p := Range{end, (size + partitionLine - 1) / partitionLine * partitionLine}
		entry := mbr[tableAt+i*entryBytes:]
		entry[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(entry[8:], uint32(p.Off/512))
		binary.LittleEndian.PutUint32(entry[12:], uint32(p.N/512))
		partitions = append(partitions, p)
		end += p.N
	}
	mbr[510], mbr[511] = 0x55, 0xaa
	if err := os.WriteFile(path, mbr, 0o644); err != nil {
		return nil, err
	}
	return partitions, os.Truncate(path, end)
}
