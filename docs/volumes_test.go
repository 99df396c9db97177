package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jnbd/testtool"
)

// TestVolumes runs the blocks about block devices, with loop devices that have the names of the
// documents, in a /dev of their own: a volume group of the host that is called the same is not
// touched.
func TestVolumes(t *testing.T) {
	testtool.Need(t, "bash", "unshare", "losetup", "mount")
	testtool.NeedRoot(t)
	blocks, err := For("..", Volumes)
	if err != nil {
		t.Fatal(err)
	}
	var documented strings.Builder
	for _, b := range blocks {
		t.Logf("%s:%d", b.File, b.Line)
		documented.WriteString(b.Text() + "\n")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "bash", "-euc", makeVolumes+documented.String()+`
		jnbd info /dev/vg0/data | grep '^size: *75.0 GiB'
		jnbd info /dev/vg0/more --journal /dev/vg1/fast | grep '^size: *1.0 GiB'
	`)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(testtool.Jnbd(t))+":"+os.Getenv("PATH"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it detaches its devices
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// makeVolumes makes sparse volumes, until the script ends.
const makeVolumes = `
	mkdir real
	mount --rbind /dev real
	mount -t tmpfs none /dev
	ln -s "$PWD"/real/* /dev
	rm -f /dev/vg0 /dev/vg1
	mkdir /dev/vg0 /dev/vg1
	loops=
	trap 'losetup --detach $loops' EXIT
	volume() {
		local loop
		truncate -s "$2" "$(basename "$1")"
		loop=$(losetup --find --show "$(basename "$1")")
		loops="$loops $loop"
		ln -s "$loop" "/dev/$1"
	}
	volume vg0/data 100G
	volume vg0/more 1G
	volume vg1/fast 2G
	sudo() { "$@"; }
`
