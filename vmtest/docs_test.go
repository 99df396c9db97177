package vmtest

import (
	"path/filepath"
	"testing"

	"jnbd/docs"
	"jnbd/vmtest/step"
)

// TestDocuments runs the blocks of the documents that need the kernel's driver, each in a
// directory with a served disk.img, as the text before them leaves it.
func TestDocuments(t *testing.T) {
	blocks, err := docs.For("..", docs.VM)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := makeSparse(disk, diskSize); err != nil {
		t.Fatal(err)
	}
	g := boot(t, disk)
	g.do(step.Step{Do: step.Start, Args: []string{
		"bash", "-c", "cd /tmp && exec jnbd serve disk.img --size 128M --journal-size 64M",
	}})
	// Everybody is root here, and the driver is loaded already. jnbd has the rights that the
	// packaged jnbd-attach@.service leaves to root.
	const before = `
		export PATH=/bin
		sudo() { "$@"; }
		jnbd() { setpriv --no-new-privs --bounding-set=-all,+sys_admin --inh-caps=-all jnbd "$@"; }
		modprobe() { [ -d /sys/block/nbd0 ]; }
		cd /tmp
		mkdir -p /mnt
		uri="nbd+unix:///disk.img?socket=$PWD/disk.img.sock"
	`
	for _, b := range blocks {
		t.Logf("%s:%d", b.File, b.Line)
		g.run("bash", "-euc", before+b.Text())
	}
	g.quit()
}
