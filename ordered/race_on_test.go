//go:build race

package ordered

// raceEnabled: the race detector makes everything slow, so times prove nothing.
const raceEnabled = true
