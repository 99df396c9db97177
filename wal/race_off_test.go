//go:build !race

package wal

// thin is how many of the crash tests' cases are left out between two.
const thin = 0
