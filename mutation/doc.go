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
//  3. The patched files go to `go test -overlay`: the tree stays as it is, and the product
//     carries no hooks for this (decision 11). The test binary must build, its test must
//     fail, and the same test must pass on the product as it is (run.go).
//
// scripts/mutate runs all of them, or some by name. docs/crash-testing.md has the table.
package mutation
