package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bytesOnDevice is how much was written so far to the block device on which dir lies, by its own
// counter. The kernel's counter for a process, in /proc/PID/io, is no measure of small appends:
// for a write of one block it counts all of the page cache's piece around it, which is up to
// 2 MiB large.
func bytesOnDevice(dir string) (float64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	name := fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("%s is not on a block device, so what is written to the host can't be counted; choose another -dir: %w", dir, err)
	}
	const sectorsWritten, sector = 6, 512 // Documentation/block/stat.rst
	fields := strings.Fields(string(text))
	if len(fields) <= sectorsWritten {
		return 0, fmt.Errorf("can't read %s: %q", name, text)
	}
	n, err := strconv.ParseFloat(fields[sectorsWritten], 64)
	return n * sector, err
}
