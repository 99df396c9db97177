//go:build !race

package ordered

// raceEnabled is false: times mean something.
const raceEnabled = false
