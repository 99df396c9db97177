package vmtest

import (
	"context"
	"os"
	"sync"
	"time"
)

// kvmProof is how long KVM has to boot a machine. A host whose KVM works needs two seconds;
// there are hosts with a /dev/kvm on which the machine never gets to its first instruction.
const kvmProof = 10 * time.Second

// verdict is what Accelerator found out, once per process.
var verdict struct {
	sync.Mutex
	accelerator string // "" before the first call
}

// Accelerator returns "kvm" when KVM has proven that it boots this kernel, else "tcg". It
// tries once per process and takes up to kvmProof; JNBD_ACCEL spares the trial.
func Accelerator(ctx context.Context, kernel Kernel, initramfs string) string {
	if chosen := os.Getenv("JNBD_ACCEL"); chosen != "" {
		return chosen
	}
	verdict.Lock()
	defer verdict.Unlock()
	if verdict.accelerator == "" {
		verdict.accelerator = "tcg"
		if kvmBoots(ctx, kernel, initramfs) {
			verdict.accelerator = "kvm"
		}
	}
	return verdict.accelerator
}

// kvmBoots starts a machine on KVM and says whether it got as far as init, and back.
func kvmBoots(ctx context.Context, kernel Kernel, initramfs string) bool {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, kvmProof)
	defer cancel()
	m, err := Start(ctx, Config{Kernel: kernel, Initramfs: initramfs, Accelerator: "kvm", Deadline: kvmProof})
	if err != nil {
		return false
	}
	return m.Quit(ctx) == nil
}
