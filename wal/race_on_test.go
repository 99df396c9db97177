//go:build race

package wal

// thin is how many of the crash tests' cases are left out between two. The race detector
// makes them ten times as slow, and the other runs have them all.
const thin = 4
