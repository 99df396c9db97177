package vmtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"jnbd/testtool"
)

// systemLife bounds a machine with a whole Debian: on an emulated processor it takes half a minute
// to boot.
const systemLife = 4 * time.Minute

// The versions that the documents install, and upgrade to.
const (
	firstVersion   = "1.2.3"
	upgradeVersion = "1.2.4"
)

// system is a small Debian that runs this package's guest as a service. Its user admin may use sudo,
// and has at home what a release consists of.
type system struct {
	image string // path of its disk
}

// makeSystem makes one. The package is not installed.
func makeSystem(t *testing.T) system {
	t.Helper()
	base := baseSystem(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "root.img")
	hostRun(t, "cp", "--sparse=always", "--reflink=auto", base, image)
	hostRun(t, "bash", "../scripts/release", "-o", dir, "-a", runtime.GOARCH, firstVersion)
	deb := filepath.Join(dir, "jnbd_"+firstVersion+"_"+runtime.GOARCH+".deb")
	program := filepath.Join(dir, "guest")
	if err := goBuild(context.Background(), program, "jnbd/vmtest/guest"); err != nil {
		t.Fatal(err)
	}
	putFiles(t, image, map[string]string{
		program:           "/usr/bin",
		deb:               "/home/admin",
		upgradeOf(t, deb): "/home/admin",
		filepath.Join(dir, "jnbd-"+firstVersion+"-linux-"+runtime.GOARCH+".tar.gz"): "/home/admin",
	})
	return system{image}
}

// boot starts a machine on it.
func (s system) boot(t *testing.T) *guest {
	t.Helper()
	w := theWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), systemLife)
	t.Cleanup(cancel)
	m, err := Start(ctx, Config{
		Kernel: w.kernel, Initramfs: w.initramfs, Accelerator: w.accelerator, Deadline: systemLife,
		Memory: 1024, Disks: []string{s.image}, Root: "/dev/vda",
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, ctx: ctx, m: m}
	t.Cleanup(func() {
		if t.Failed() {
			said, err := m.Run(ctx, "bash", "-c", "journalctl --boot --no-pager --output=cat --unit='jnbd*' | tail -n 20")
			t.Logf("log of the units (%v):\n%s\nconsole of the guest:\n%s", err, said, m.Console())
		}
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// shell runs commands of root, which must all succeed.
func (g *guest) shell(commands string) string {
	g.t.Helper()
	return g.run("bash", "-euc", "export PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8\n"+commands)
}

// shutDown has systemd end the system and waits for that.
func (g *guest) shutDown() {
	g.t.Helper()
	// The answer may get lost with the machine.
	_, asked := g.m.Run(g.ctx, "systemctl", "--no-block", "reboot")
	if err := g.m.Await(g.ctx); err != nil {
		g.t.Log(asked)
		g.t.Fatal(err)
	}
}

// baseSystem is the image of a Debian without anything of ours but a unit, in the user's cache. The
// first test that asks makes it.
func baseSystem(t *testing.T) string {
	t.Helper()
	testtool.Need(t, "mmdebstrap", "mkfs.ext4", "debugfs", "dpkg-deb")
	testtool.NeedRoot(t)
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	// What it is made of names it: another one does not take its place.
	name := fmt.Sprintf("bookworm-%x.img", sha256.Sum256([]byte(strings.Join(baseArguments, "\x00"))))
	path := filepath.Join(user, "jnbd", "system", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(t.TempDir(), "system")
	hostRun(t, "mmdebstrap", append(baseArguments, "bookworm", tree)...)
	// Beside its place at first, so that what has the name is whole.
	work := path + fmt.Sprintf(".%d", os.Getpid())
	defer os.Remove(work)
	if err := makeSparse(work, 2<<30); err != nil {
		t.Fatal(err)
	}
	hostRun(t, "mkfs.ext4", "-q", "-F", "-d", tree, work)
	if err := os.Rename(work, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// baseArguments are those of mmdebstrap.
var baseArguments = []string{
	"--variant=minbase", `--aptopt=APT::Install-Recommends "false"`,
	"--include=systemd-sysv,udev,dbus,kmod,e2fsprogs,mount,procps,sudo,libnbd-bin",
	"--skip=cleanup/reproducible/machine-id",
	"--customize-hook=" + `
		cd "$1"
		chmod 755 . # it came from a temporary directory
		printf '[Service]\nExecStart=/usr/bin/guest\n' >etc/systemd/system/steps.service
		mkdir -p etc/systemd/system/multi-user.target.wants
		ln -s ../steps.service etc/systemd/system/multi-user.target.wants/
		mkdir -p var/log/journal # a journal that outlives the boot
		chroot . useradd --create-home --shell /bin/bash admin
		echo 'admin ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/admin
		echo 127.0.0.1 localhost "$(cat etc/hostname)" >etc/hosts
		# What a first boot does takes long: enable units, build databases.
		echo 1d2b6e0c5e4f4a0f9d3c7b8a69584736 >etc/machine-id
		touch etc/.updated var/.updated`,
}

// putFiles copies files of the host into directories of a file system in an image.
func putFiles(t *testing.T, image string, files map[string]string) {
	t.Helper()
	var commands strings.Builder
	for from, to := range files {
		fmt.Fprintf(&commands, "cd %s\nwrite %s %s\n", to, from, filepath.Base(from))
	}
	script := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(script, []byte(commands.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	hostRun(t, "debugfs", "-w", "-f", script, image)
}

// upgradeOf makes a package like the one in the file deb, of the next version.
func upgradeOf(t *testing.T, deb string) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	hostRun(t, "dpkg-deb", "--raw-extract", deb, tree)
	hostRun(t, "sed", "-i", "s/^Version: .*/Version: "+upgradeVersion+"/", filepath.Join(tree, "DEBIAN", "control"))
	err := goBuild(context.Background(), filepath.Join(tree, "usr/bin/jnbd"), "jnbd/cmd/jnbd", "-ldflags", "-X main.releaseVersion="+upgradeVersion)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jnbd_"+upgradeVersion+"_"+runtime.GOARCH+".deb")
	hostRun(t, "dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path)
	return path
}
