// Package crashdisk is a disk with a volatile cache, in memory, for tests that pull the plug.
//
// # The fault model
//
// A Group is a machine: some disks, each with a cache of its own, one power supply, and one
// counter of operations. Every write (WriteAt, WriteVAt, Zero) and every Flush of any of its
// disks is one operation, numbered from 1 in the order in which they are called. Reads are
// counted apart.
//
// What reads see is always the newest written bytes. What the medium holds is another matter:
//
//   - A write is unflushed from its call on. A Flush that returns nil makes durable the
//     writes to its own disk that had returned before Flush was called, and no others: not
//     those that ran beside it, not those of the other disks.
//   - Power loss (Image) leaves on the medium everything durable. Of the unflushed writes,
//     each alone is kept, lost, or torn: cut into sectors of 512 or of 4096 bytes, aligned on
//     the disk, of which each is kept or lost. Survivors reach the medium in the order in
//     which they were written or in any other, so that where they overlap an older one may
//     win. A write that was called but had not returned is unflushed like any other; a Flush
//     that had not returned has done nothing that the fates of the writes don't cover.
//   - Writes smaller than a sector live and die alone, also two in one sector. A real page
//     cache writes whole sectors and is kinder.
//   - A sector that no unflushed write touches holds its durable bytes.
//   - Process death (KillImage) loses nothing: the kernel has the bytes. They are still
//     unflushed: power loss during what follows may take them.
//   - A write told to fail (FailAt) may have changed any of its sectors, or none.
//   - A Flush told to fail drops the dirty pages, as Linux does: some of what it covered may
//     have reached the medium, the rest never will, and no later Flush says so. With
//     KeepPages reads go on seeing what is not on the medium until the machine loses power;
//     with EvictPages they see the medium's older bytes from then on. ReadDirectAt sees the
//     medium in both cases.
//   - A read told to fail (FailReadAt) fills nothing.
//   - From the operation of CrashAt on, every call on every disk returns ErrCrashed.
//
// What it does not do: change bytes at rest, misdirect a write, or lie about a Flush. Tests
// of corruption change the bytes themselves.
//
// Everything random comes from seeds: the same calls in the same order with the same seeds
// make the same images.
package crashdisk
