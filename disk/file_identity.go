package disk

import (
	"encoding/binary"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Identity says which file this is, whatever it is named: the inode number in the first 8
// bytes, the birth time in nanoseconds since 1970 in the last, little endian. A file that was
// copied, or removed and made again, has another one. It is all zero, with no error, for
// a block device and on file systems that keep no birth time: then it proves nothing.
func (f *File) Identity() (id [16]byte, err error) {
	f.life.RLock()
	defer f.life.RUnlock()
	if f.fd < 0 {
		return id, f.fail("identify", fs.ErrClosed)
	}
	if f.block {
		return id, nil
	}
	const wanted = unix.STATX_INO | unix.STATX_BTIME
	var st unix.Statx_t
	if err := retry(func() error { return unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, wanted, &st) }); err != nil {
		return id, f.fail("identify", err)
	}
	if st.Mask&wanted != wanted {
		return id, nil
	}
	binary.LittleEndian.PutUint64(id[:8], st.Ino)
	binary.LittleEndian.PutUint64(id[8:], uint64(st.Btime.Sec*1e9+int64(st.Btime.Nsec)))
	return id, nil
}
