package packaging

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jnbd/docs"
	"jnbd/testtool"
)

// TestContainerAsDocumented runs what the documents say of containers, word for word but for the
// version: detached, with a published port, and a disk of the host. Its mounts and its network are
// its own, so the machine's /srv, networks and engines see nothing of it.
func TestContainerAsDocumented(t *testing.T) {
	testtool.Need(t, "podman", "runc", "unshare", "ip", "nbdinfo", "tar")
	testtool.NeedRoot(t)
	blocks, err := docs.For("..", docs.Container)
	if err != nil {
		t.Fatal(err)
	}
	var documented strings.Builder
	for _, b := range blocks {
		t.Logf("%s:%d", b.File, b.Line)
		documented.WriteString(strings.ReplaceAll(b.Text(), "1.2.3", version) + "\n")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "containers.conf")
	if err := errors.Join(
		os.WriteFile(config, []byte(containersConf), 0o644),
		os.Symlink(tarFile(t), filepath.Join(dir, filepath.Base(tarFile(t)))),
	); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "-euxc", ownPlaces+documented.String()+containerChecks)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+config, "STORAGE_DRIVER=vfs")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image := filepath.Join(dir, "srv", "disks", "disk.img")
	if info, err := os.Stat(image); err != nil || info.Size() != 10<<30 {
		t.Errorf("the disk on the host: %v, %v, want 10 GiB", info, err)
	}
	if said := run(t, filepath.Join(install(t), "usr/bin/jnbd"), "info", image); !strings.Contains(said, "clean") {
		t.Errorf("the disk after the stop:\n%s", said)
	}
}

// containersConf has the engine leave services alone, and limits below what it would raise, which
// not every root may.
const containersConf = `
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
`

// ownPlaces gives the engine directories of its own where it keeps anything, and a loopback.
const ownPlaces = `
	for place in srv run var/lib/containers var/lib/cni etc/cni; do
		mkdir -p "$place" "/$place"
		mount --bind "$place" "/$place"
	done
	ip link set lo up
	sudo() { "$@"; }
`

// containerChecks want the disk to be served where the commands before say, to nobody else, and a
// stop to end it in order.
const containerChecks = `
	until size=$(nbdinfo --size nbd://127.0.0.1:10809/disk.img); do
		[ "$(podman ps --quiet)" ] || { podman logs --latest; exit 1; }
		sleep 0.1
	done
	[ "$size" = 10737418240 ]
	[ "$(podman port --latest)" = '10809/tcp -> 127.0.0.1:10809' ]
	[ "$(podman inspect --latest --format '{{.Config.StopTimeout}}')" = 100 ]
	podman stop --latest
	podman logs --latest 2>&1 | grep 'disk stopped'
	podman rm --all
`
