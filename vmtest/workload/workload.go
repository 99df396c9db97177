// Package workload is what a guest does to a disk whose power is going to fail, and what it
// may expect to find afterwards. Guest and host know it both: the guest performs it
// (vmtest/load), the host compares what a state holds with what had been acknowledged.
//
//   - Files: small files that are made, replaced by renaming, renamed, extended and removed,
//     each operation made durable before the next (files.go);
//   - Rows: transactions of a SQLite database (rows.go);
//   - requests of the power-cut gate to the block device itself (raw.go).
//
// What was acknowledged, and when, stands in marks: sectors of a partition of their own on the
// recorded disk, written past the page cache. The log of the disk's writes holds them in
// order with all else, so that a cut of the log says by itself what had been acknowledged
// before it (marks.go).
package workload
