package main

import "golang.org/x/sys/unix"

const (
	// filesOfDisk are a disk's image, journal and control socket, with those who ask there.
	filesOfDisk = 24
	// filesOfProcess are what the process has open besides disks and clients.
	filesOfProcess = 32
)

// filesNeeded is how many files the process may have open when it serves all that it may.
func filesNeeded(connections, disks int) uint64 {
	return uint64(connections) + uint64(disks)*filesOfDisk + filesOfProcess
}

// warnOfFiles says so when the host allows fewer open files than are needed. Go's runtime has
// raised the soft limit to the hard one; the hard one is the operator's.
func (a *app) warnOfFiles(connections, disks int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return // nothing is known, and nothing depends on it
	}
	if need := filesNeeded(connections, disks); limit.Cur < need {
		a.log.Warn().Uint64("files", limit.Cur).Uint64("needed", need).Int("max_connections", connections).
			Msg("the host allows too few open files for so many connections: new clients may have to wait for others to leave")
	}
}
