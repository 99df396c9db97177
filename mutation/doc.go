// Package mutation proves that the tests can fail: it breaks the product on purpose, one
// breakage at a time, and runs the test that must notice.
//
// A run, in the order of the files:
//
//  1. A breakage is a file under breakages/: what it breaks, the test that must catch it, and
//     a patch of the product's source (parse.go).
//  2. Its old lines must stand in the source exactly once, so that a change of the product
//     that a breakage no longer fits is an error, never a breakage that does nothing
//     (apply.go).
//  3. Functions that it changes stand beside those of the tree, in one build for all breakages
//     that tests of the same package must catch (together.go).
//  4. The files go to `go test -overlay`: the tree stays as it is, and the product
//     carries no hooks for this (decision 11). The test binary must build, its test must
//     fail with the breakage on, and pass with none (run.go).
//
// scripts/mutate runs all of them, or some by name. docs/crash-testing.md has the table.
package mutation
