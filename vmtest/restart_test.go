package vmtest

import (
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"testing"

	"jnbd/vmtest/step"
)

// TestServerKilledAndRestarted: the server is killed (SIGKILL) while the guest writes, three
// times, after more and more files. Each time the guest loses its device; the server is
// started again, the guest attaches again, ext4 replays its journal and finds no fault, and
// every file of every round that the guest had fsynced is there. In every mode.
func TestServerKilledAndRestarted(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { killAndRestart(t, mode) })
	}
}

func killAndRestart(t *testing.T, mode string) {
	disk := filepath.Join(t.TempDir(), "disk.img")
	port := freePort(t)
	address := []string{"10.0.2.2", strconv.Itoa(port)}
	served := serve(t, disk, diskSize, port, "--mode", mode)
	g := boot(t)

	g.attach("/dev/nbd0", diskSize, address...)
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	want := make(map[string]step.File) // by path below /
	for round, killAfter := range []int{5, 20, 40} {
		device := fmt.Sprintf("/dev/nbd%d", round)
		g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt"})
		maps.Copy(want, writeUntilKilled(g, served, device, round, killAfter))
		g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})

		served = serve(t, disk, diskSize, port)
		// Another device: nothing can come from a cache of the lost one.
		device = fmt.Sprintf("/dev/nbd%d", round+1)
		g.attach(device, diskSize, address...)
		g.replay(device)
		g.fsck(device)
		g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt"})
		mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt"}), want)
		g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	}
	served.stop() // while the guest is attached
	g.detach("/dev/nbd3")
	mustHoldRaw(t, disk, "/", want)
}

// writeUntilKilled has the guest write and fsync files in /mnt/round-N, kills the server as
// soon as killAfter of them are vouched for, and returns the files that the guest vouched
// for until its device failed. At the kill, more writes are under way.
func writeUntilKilled(g *guest, served *server, device string, round, killAfter int) map[string]step.File {
	g.t.Helper()
	dir := fmt.Sprintf("round-%d", round)
	files := make(map[string]step.File)
	detached := make(chan error, 1)
	_, err := g.m.Do(g.ctx, step.Step{Do: step.WriteSynced, Dir: "/mnt/" + dir, Seed: uint64(100 + round)},
		func(f step.File) {
			f.Name = filepath.Join(dir, f.Name)
			files[f.Name] = f
			if len(files) != killAfter {
				return
			}
			served.kill()
			// The kernel fails new requests at once, but those in flight wait for a
			// server that may come back. Detaching fails them too. Ends with the step.
			go func() {
				_, err := g.m.Run(g.ctx, "nbd-client", "-d", device)
				detached <- err
			}()
		})
	if len(files) < killAfter {
		g.t.Fatalf("round %d: writing ended after %d files: %v", round, len(files), err)
	}
	if err == nil {
		g.t.Fatalf("round %d: the server is dead, and no write failed", round)
	}
	if err := <-detached; err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("round %d: %d files synced, then: %v", round, len(files), err)
	return files
}

// replay replays the journal of the ext4 on device, and does nothing else to it.
func (g *guest) replay(device string) {
	g.t.Helper()
	args := []string{"e2fsck", "-E", "journal_only", "-p", device}
	answer := g.do(step.Step{Do: step.Run, Args: args})
	if answer.Code > 1 { // 1: it has changed something, as it was told to
		g.t.Fatalf("%v: exit code %d: %s", args, answer.Code, answer.Out)
	}
}
