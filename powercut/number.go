package powercut

import (
	"encoding/binary"
	"fmt"
)

// sectorBytes is the grain of requests and of the numbers in them: what a disk never tears.
const sectorBytes = 512

// A numbered sector, 512 bytes, little endian:
//
//	0  8  number of the request that wrote it, from 1 on
//	8  8  the sector's index on the served disk
//	16 .. words that depend on both, so that no two sectors ever written look alike
//
// A sector of zeros has number 0: never written, or zeroed.

// numberSector fills a sector.
func numberSector(p []byte, number uint64, sector int64) {
	binary.LittleEndian.PutUint64(p, number)
	binary.LittleEndian.PutUint64(p[8:], uint64(sector))
	x := number*0x9e3779b97f4a7c15 ^ uint64(sector)*0xbf58476d1ce4e5b9
	for at := 16; at < sectorBytes; at += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(p[at:], x)
	}
}

// payload is what a write of n bytes at off sends.
func payload(number uint64, off, n int64) []byte {
	p := make([]byte, n)
	for at := int64(0); at < n; at += sectorBytes {
		numberSector(p[at:at+sectorBytes], number, (off+at)/sectorBytes)
	}
	return p
}

// readNumber is the number of a sector. A sector that nobody wrote so is an error: it is
// torn within, mixed, or in the wrong place.
func readNumber(p []byte, sector int64) (uint64, error) {
	number := binary.LittleEndian.Uint64(p)
	if number == 0 {
		if !isZero(p[:sectorBytes]) {
			return 0, fmt.Errorf("sector %d: begins with zeros and goes on with data", sector)
		}
		return 0, nil
	}
	var want [sectorBytes]byte
	numberSector(want[:], number, sector)
	if [sectorBytes]byte(p[:sectorBytes]) != want {
		return 0, fmt.Errorf("sector %d: says it is of request %d and sector %d, but holds other bytes",
			sector, number, binary.LittleEndian.Uint64(p[8:]))
	}
	return number, nil
}
