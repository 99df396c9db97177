package step

import (
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// MaxFile is the longest file that WriteTree and WriteSynced make, in bytes.
const MaxFile = 1 << 20

// checksums is the polynomial of File.CRC64.
var checksums = crc64.MakeTable(crc64.ECMA)

// Content is the content of file number i of a seed: 0 bytes to MaxFile, most files
// short, of bytes that neither compress nor repeat.
func Content(seed uint64, i int) []byte {
	random := rand.New(rand.NewPCG(seed, uint64(i)))
	limit := 1 << random.IntN(21) // every scale of size is as likely as another
	content := make([]byte, random.IntN(limit+1))
	fill(random, content)
	return content
}

// BlockSize is what WriteBlock writes, in bytes.
const BlockSize = 4096

// Block is the content of a block of a seed.
func Block(seed uint64) []byte {
	block := make([]byte, BlockSize)
	fill(rand.New(rand.NewPCG(seed, 0)), block)
	return block
}

// Name is the name of file number i: a path with one to three directories.
func Name(seed uint64, i int) string {
	random := rand.New(rand.NewPCG(seed^0x9e3779b97f4a7c15, uint64(i)))
	name := fmt.Sprintf("file-%04d", i)
	for range 1 + random.IntN(3) {
		name = filepath.Join(fmt.Sprintf("dir-%d", random.IntN(5)), name)
	}
	return name
}

// Describe is the File for a content that is in memory.
func Describe(name string, content []byte) File {
	return File{Name: name, Size: int64(len(content)), CRC64: crc64.Checksum(content, checksums)}
}

// Walk reads every regular file below dir and returns them in lexical order. Directories
// that mkfs makes (lost+found) are left out.
func Walk(dir string) (files []File, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "lost+found" {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("read the tree: %s is not a regular file", path)
		}
		file, err := describe(path)
		if err != nil {
			return err
		}
		if file.Name, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		files = append(files, file)
		return nil
	})
	return files, err
}

// describe reads the file at path. The caller sets the name.
func describe(path string) (_ File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := crc64.New(checksums)
	n, err := io.Copy(sum, f)
	if err != nil {
		return File{}, err
	}
	return File{Size: n, CRC64: sum.Sum64()}, nil
}

// fill writes random bytes over p.
func fill(random *rand.Rand, p []byte) {
	for len(p) >= 8 {
		word := random.Uint64()
		for k := range 8 {
			p[k] = byte(word >> (8 * k))
		}
		p = p[8:]
	}
	for k := range p {
		p[k] = byte(random.Uint32())
	}
}
