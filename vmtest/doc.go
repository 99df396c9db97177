// Package vmtest boots a real Linux kernel in QEMU, with jnbd under its NBD client and
// ext4 on top, and holds the tests that only a real kernel can decide.
//
// A machine comes to life like this:
//
//  1. FindKernel gets Debian's cloud kernel by apt-get, without root, and keeps it in the
//     user's cache (kernel.go).
//  2. BuildInitramfs packs a static Go init (guest/), the kernel modules in the order they
//     need each other (modules.go), and programs of the host with their libraries
//     (initramfs.go, libraries.go).
//  3. Accelerator says whether KVM works here. That it exists proves nothing: it must
//     boot a machine within ten seconds (accelerator.go).
//  4. Start runs QEMU and waits for init's READY on the serial console (machine.go,
//     console.go).
//  5. Machine.Do asks for steps over a second serial port, in the language of package
//     step, and gets their answers (talk.go).
//  6. Machine.Quit demands an END from init. A machine that dies without one has failed,
//     however well its steps went. Machine.Kill pulls the plug instead.
//
// What a test here may believe: the guest's kernel, its ext4 and its NBD client are
// unchanged Debian. What it may not: a kill of QEMU loses no write that reached the host,
// so it is the death of a client, not a power cut.
//
// Power cuts are made another way (recorded.go, loss_*_test.go): QEMU records every write and
// flush of a guest's disk (package logwrites reads that), the guest marks what was acknowledged
// in the same log (package workload, command load), and afterwards the host rebuilds what the
// disk may hold at a cut of the log, recovers that, and compares.
//
// One machine after the other: on two cores two at a time were seen to take longer than both in turn.
//
// Environment:
//
//	JNBD_REQUIRE=1    what is missing on this host fails the tests instead of skipping them
//	JNBD_KERNEL_DIR   an unpacked kernel package (boot/, lib/modules/) to use instead
//	JNBD_ACCEL        kvm or tcg: use that, without the proof
//	JNBD_LOSS_STATES  how many states after a power cut each case looks at
//	JNBD_LOSS_ALL=1   power cuts in every mode, the journal inside and beside
//	JNBD_VM_SYSTEMD=1 boot the whole Debian under systemd once more
//	JNBD_SWAP_ALL=1   swap to a disk of every mode, and more of it
//	JNBD_LOSS_KEEP    a directory that gets the bad states, as files
package vmtest

import "errors"

// ErrUnavailable is wrapped by errors that say: this host lacks what a machine needs.
var ErrUnavailable = errors.New("not available on this host")
