package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// systemLife bounds a machine with a whole Debian: on an emulated processor it takes a minute to
// boot.
const systemLife = 8 * time.Minute

// TestSystemd installs the package into a whole Debian under systemd, and follows docs/operate.md:
// a disk is served by jnbd@data, attached by jnbd-attach@nbd0, and mounted by /etc/fstab. It is
// there after a reboot, with what was written; a server that is restarted under the mount is
// not noticed; and each shutdown unmounts, detaches and stops in this order. The server and the
// supervisor may do what --swap needs.
//
// It takes minutes, root, and mmdebstrap, so it runs with JNBD_VM_SYSTEMD=1 only.
func TestSystemd(t *testing.T) {
	if os.Getenv("JNBD_VM_SYSTEMD") != "1" {
		return
	}
	root := makeSystem(t)

	g := bootSystem(t, root)
	g.shell(setUpSystem)
	want := g.files(step.Step{Do: step.WriteTree, Dir: "/data/tree", Seed: 1, Files: treeFiles})
	g.mustLog("jnbd@data", "every thread is an I/O flusher")
	g.mustLog("jnbd-attach@nbd0", "every thread is an I/O flusher")
	g.shutDown()

	g = bootSystem(t, root)
	g.shell("systemctl is-system-running --wait; systemctl is-active jnbd@data jnbd-attach@nbd0 data.mount")
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/data/tree"}), want)
	g.mustHaveStoppedInOrder()
	g.shell("systemctl restart jnbd@data")
	more := g.files(step.Step{Do: step.WriteTree, Dir: "/data/more", Seed: 2, Files: treeFiles})
	g.mustLog("jnbd-attach@nbd0", "connected again")
	g.shutDown()

	g = bootSystem(t, root)
	g.shell("systemctl is-system-running --wait")
	g.mustHaveStoppedInOrder()
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/data/more"}), more)
	g.shell("umount /data && e2fsck -fn /dev/nbd0")
	// The package goes, and takes what runs along. The disk stays.
	g.shell(`
		dpkg --remove jnbd
		! pidof jnbd
		[ "$(cat /sys/block/nbd0/size)" = 0 ]
		[ -e /var/lib/jnbd/data.img ]
	`)
	g.shutDown()
}

// setUpSystem is what docs/operate.md has an administrator do.
const setUpSystem = `
	dpkg -i /root/jnbd.deb
	sed -e 's/^.export.example./[export.data]/' -e 's/example.img/data.img/' -e 's/"1G"/"256M"/' \
		-e 's/^#journal-size.*/journal-size = "64M"/' -e '/^# Each table/i swap = true' /etc/jnbd/example.toml >/etc/jnbd/data.toml
	sed -e 's/example/data/g' -e 's/^OPTIONS=/OPTIONS=--swap/' /etc/jnbd/attach/example.conf >/etc/jnbd/attach/nbd0.conf
	for unit in jnbd@data jnbd-attach@nbd0; do
		mkdir -p /etc/systemd/system/$unit.service.d
		printf '[Service]\nCapabilityBoundingSet=CAP_SYS_RESOURCE\nAmbientCapabilities=CAP_SYS_RESOURCE\n' \
			>/etc/systemd/system/$unit.service.d/swap.conf
	done
	systemctl daemon-reload
	systemctl enable --now jnbd@data
	systemctl enable --now jnbd-attach@nbd0
	mkfs.ext4 -q /dev/nbd0
	mkdir /data
	echo '/dev/nbd0 /data ext4 _netdev,x-systemd.requires=jnbd-attach@nbd0.service 0 2' >>/etc/fstab
	systemctl daemon-reload
	systemctl start data.mount
`

// bootSystem starts a machine on the system in the image root.
func bootSystem(t *testing.T, root string) *guest {
	t.Helper()
	w := theWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), systemLife)
	t.Cleanup(cancel)
	m, err := Start(ctx, Config{
		Kernel: w.kernel, Initramfs: w.initramfs, Accelerator: w.accelerator, Deadline: systemLife,
		Memory: 1024, Disks: []string{root}, Root: "/dev/vda",
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

// shell runs commands of an administrator, which must all succeed.
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

// mustLog wants a unit to have said something since the boot.
func (g *guest) mustLog(unit, text string) {
	g.t.Helper()
	g.await(unit+" to say "+text, func() bool {
		return strings.Contains(g.shell("journalctl --boot --no-pager --output=cat --unit="+unit+" | tail -n 12 | cut -c 1-150"), text)
	})
}

// mustHaveStoppedInOrder looks at how the boot before this one ended: what is mounted goes first,
// then the device, then the server. The kernel saw nothing wrong.
func (g *guest) mustHaveStoppedInOrder() {
	g.t.Helper()
	said := g.shell(`journalctl --boot=-1 --no-pager --output=cat _PID=1 |
		grep -E '^(Unmounted|Stopped|Stopping|Failed|.*[Ff]ailed with).*(/data|jnbd)' | tail -n 6`)
	at := 0
	for _, want := range []string{"Unmounted data.mount", "Stopped jnbd-attach@nbd0.service", "Stopped jnbd@data.service"} {
		found := strings.Index(said[at:], want)
		if found < 0 {
			g.t.Errorf("the last shutdown lacks %q, or has it elsewhere:\n%s", want, said)
			return
		}
		at += found
	}
	if strings.Contains(strings.ToLower(said), "fail") {
		g.t.Errorf("the last shutdown:\n%s", said)
	}
	kernel := g.shell("journalctl --boot=-1 --no-pager --output=cat --dmesg --priority=warning | tail -n 20")
	for line := range strings.Lines(kernel) {
		if suspicious.MatchString(line) && !lostLine.MatchString(line) {
			g.t.Errorf("the kernel says: %s", line)
		}
	}
}

// makeSystem makes the image of a small Debian that runs this package's guest as a service, with
// our package in /root, not installed.
func makeSystem(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"mmdebstrap", "mkfs.ext4"} {
		if _, err := findProgram(name); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("../scripts/release", "-o", dir, "-a", runtime.GOARCH, "0.1.0-test").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	guestProgram := filepath.Join(dir, "guest")
	if err := goBuild(context.Background(), guestProgram, "jnbd/vmtest/guest"); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "steps.service")
	const service = "[Service]\nExecStart=/usr/bin/guest\n[Install]\nWantedBy=multi-user.target\n"
	if err := os.WriteFile(unit, []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "system")
	upload := func(from, to string) string {
		return fmt.Sprintf("--customize-hook=upload %s %s", from, to)
	}
	hostRun(t, "mmdebstrap", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\"",
		"--include=systemd-sysv,udev,dbus,kmod,e2fsprogs,mount,procps",
		upload(guestProgram, "/usr/bin/guest"),
		upload(unit, "/etc/systemd/system/steps.service"),
		upload(filepath.Join(dir, "jnbd_0.1.0~test_"+runtime.GOARCH+".deb"), "/root/jnbd.deb"),
		// A journal that outlives the boot.
		"--customize-hook=chmod 755 $1/usr/bin/guest && mkdir -p $1/var/log/journal && ln -s ../steps.service $1/etc/systemd/system/multi-user.target.wants/",
		"bookworm", tree)
	image := filepath.Join(dir, "root.img")
	if err := makeSparse(image, 2<<30); err != nil {
		t.Fatal(err)
	}
	hostRun(t, "mkfs.ext4", "-q", "-F", "-d", tree, image)
	return image
}
