package vmtest

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"jnbd/vmtest/step"
)

const (
	diskSize  = 512 << 20
	treeFiles = 150
)

// TestKernelClientOverTCP: jnbd runs on the host. The guest's kernel attaches over TCP with
// one and with four connections, makes a file system, writes a tree, and lets go. All of it
// is there when it attaches again, and in the raw image when jnbd is gone. In every mode.
func TestKernelClientOverTCP(t *testing.T) {
	for _, c := range []struct {
		mode        string
		connections int
	}{{"data", 4}, {"ordered", 1}, {"auto", 4}} {
		t.Run(fmt.Sprintf("%s/connections=%d", c.mode, c.connections), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk.img")
			port := freePort(t)
			served := serve(t, disk, diskSize, port, "--mode", c.mode)
			g := boot(t)
			address := []string{"-C", strconv.Itoa(c.connections), "10.0.2.2", strconv.Itoa(port)}

			g.attach("/dev/nbd0", diskSize, address...)
			if got := g.connections(port); got != c.connections {
				t.Fatalf("the kernel has %d connections, want %d", got, c.connections)
			}
			g.run("mkfs.ext4", "-q", "/dev/nbd0")
			want := writeTreeAndCheck(g, "/dev/nbd0")
			g.detach("/dev/nbd0")

			// Another device: nothing can come from a cache of the first.
			g.attach("/dev/nbd1", diskSize, address...)
			readTreeAndCheck(g, "/dev/nbd1", want)
			g.detach("/dev/nbd1")

			served.stop()
			mustHoldRaw(t, disk, "/tree", want)
		})
	}
}

// writeTreeAndCheck writes the tree to the file system on device, unmounts and checks it.
// It returns the files.
func writeTreeAndCheck(g *guest, device string) map[string]step.File {
	g.t.Helper()
	g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt"})
	files := g.files(step.Step{Do: step.WriteTree, Dir: "/mnt/tree", Seed: 1, Files: treeFiles})
	if len(files) != treeFiles {
		g.t.Fatalf("the tree has %d files, want %d", len(files), treeFiles)
	}
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	g.fsck(device)
	return files
}

// readTreeAndCheck checks the file system on device and wants the files in its tree.
func readTreeAndCheck(g *guest, device string, want map[string]step.File) {
	g.t.Helper()
	g.fsck(device)
	g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt"})
	mustHold(g.t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt/tree"}), want)
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
}
