package vmtest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"jnbd/docs"
	"jnbd/vmtest/step"
)

// TestSystemd has an administrator follow the documents in a whole Debian under systemd, word for
// word: every block that is for such a machine is run. The package is installed, a disk is served by
// jnbd@data, attached by jnbd-attach@nbd0, and mounted by /etc/fstab. Server and supervisor may do
// what --swap needs. The package is upgraded under the mount, which nobody notices. The shutdown
// unmounts, detaches and stops, in this order.
//
// At the next boot all of it is there again. Another disk's server is down then: what is mounted
// from it waits, with all that waits for remote file systems, until it comes.
//
// It needs root, for mmdebstrap. JNBD_VM_SYSTEMD=1 adds a third boot.
func TestSystemd(t *testing.T) {
	s := makeSystem(t)

	g := s.boot(t)
	manual := readManual(t)
	manual.install(g)
	manual.serve(g)
	manual.attach(g)
	g.shell(setUpLate)
	late := g.files(step.Step{Do: step.WriteTree, Dir: "/late/tree", Seed: 3, Files: systemFiles})
	data := g.files(step.Step{Do: step.WriteTree, Dir: "/data/tree", Seed: 1, Files: systemFiles})
	manual.upgrade(g)
	more := g.files(step.Step{Do: step.WriteTree, Dir: "/data/more", Seed: 2, Files: systemFiles})
	manual.mustBeDone(t)
	g.shutDown()

	g = s.boot(t)
	g.mustAwaitLate()
	g.mustBeActive("data.mount")
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/data/tree"}), data)
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/data/more"}), more)
	g.shell("systemctl start jnbd@late")
	g.mustBeUp()
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/late/tree"}), late)
	g.mustHaveStoppedInOrder()
	g.waitInVain()
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/late/tree"}), late)
	if os.Getenv("JNBD_VM_SYSTEMD") == "1" {
		// Started by the boot, and not by hand: they stop in the same order.
		g.shutDown()
		g = s.boot(t)
		g.shell("systemctl start jnbd@late")
		g.mustBeUp()
		g.mustHaveStoppedInOrder()
		mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/data/more"}), more)
	}
	g.shell(remove)
	g.shutDown()
}

// systemFiles is how many files are in each tree of TestSystemd.
const systemFiles = treeFiles / 5

// manual is what the documents have an administrator do, in their order.
type manual struct{ blocks []docs.Block }

func readManual(t *testing.T) *manual {
	t.Helper()
	blocks, err := docs.For("..", docs.Debian)
	if err != nil {
		t.Fatal(err)
	}
	return &manual{blocks}
}

// next has an administrator do what comes next in the documents, which must begin like that.
// editor is what sudoedit does, a filter.
func (m *manual) next(g *guest, begins, editor string) {
	g.t.Helper()
	if len(m.blocks) == 0 || !strings.HasPrefix(m.blocks[0].Text(), begins) {
		g.t.Fatalf("the documents do not go on with %q, but with %v", begins, m.blocks)
	}
	block := m.blocks[0]
	m.blocks = m.blocks[1:]
	g.t.Logf("%s:%d", block.File, block.Line)
	g.shell("cat >/home/admin/editor <<'END'\n#!/bin/sh\n" + editor + ` "$1" >edited && cat edited >"$1"` + "\nEND\nchmod 755 /home/admin/editor")
	const before = "cd /home/admin; export HOME=$PWD LC_ALL=C.UTF-8 PATH=/usr/bin EDITOR=$PWD/editor\n"
	g.shell("runuser -u admin -- bash -euc '" + strings.ReplaceAll(before+block.Text(), "'", `'\''`) + "'")
}

// mustBeDone wants everything to have been done.
func (m *manual) mustBeDone(t *testing.T) {
	t.Helper()
	for _, b := range m.blocks {
		t.Errorf("%s:%d is run by no test: %s", b.File, b.Line, b.Text())
	}
}

// install installs the package, and the archive beside it, which goes again.
func (m *manual) install(g *guest) {
	g.t.Helper()
	m.next(g, "sudo apt install", "")
	g.shell(`
		jnbd version | grep '^jnbd 1.2.3 '
		id jnbd
		systemctl cat jnbd@data jnbd-attach@nbd0 >/dev/null
	`)
	m.next(g, "sudo tar", "")
	g.shell(`
		/usr/local/bin/jnbd version | grep '^jnbd 1.2.3 '
		cd /usr/local
		tar -tf /home/admin/jnbd-*.tar.gz | sed 's|^[^/]*/||' | grep '[^/]$' | xargs rm
	`)
}

// serve sets jnbd@data up.
func (m *manual) serve(g *guest) {
	g.t.Helper()
	g.mayLockMemory()
	m.next(g, "sudo cp /etc/jnbd/example.toml", `sed -e 's/^.export.example./[export.data]/' -e 's/example.img/data.img/' \
		-e 's/"1G"/"256M"/' -e 's/^#journal-size.*/journal-size = "64M"/' -e '/^# Each table/i swap = true'`)
	g.mustLog("jnbd@data", "every thread is an I/O flusher")
	g.shell("systemctl reload jnbd@data")
	g.mustLog("jnbd@data", "configuration")
}

// attach sets jnbd-attach@nbd0 and its mount up.
func (m *manual) attach(g *guest) {
	g.t.Helper()
	m.next(g, "sudo cp /etc/jnbd/attach/example.conf", `sed -e 's/example/data/g' -e 's/^OPTIONS=/OPTIONS=--swap/'`)
	g.mustLog("jnbd-attach@nbd0", "every thread is an I/O flusher")
	g.shell(`for unit in jnbd@data jnbd-attach@nbd0; do
		[ "$(cat /proc/"$(systemctl show --property=MainPID --value $unit)"/oom_score_adj)" = -900 ]
	done`)
	g.shell("mkfs.ext4 -q /dev/nbd0; mkdir /data; systemctl daemon-reload; systemctl start data.mount")
}

// upgrade installs the next version under the mount.
func (m *manual) upgrade(g *guest) {
	g.t.Helper()
	m.next(g, "sudo apt install", "")
	g.mustLog("jnbd@data", `"version":"1.2.4"`)
	g.mustLog("jnbd-attach@nbd0", "connected again")
}

// mayLockMemory gives both units the drop-in that the documents have for --swap.
func (g *guest) mayLockMemory() {
	g.t.Helper()
	found, err := docs.DropIns("..")
	if err != nil {
		g.t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(text string) bool { return strings.Contains(text, "CAP_SYS_RESOURCE") })
	if i < 0 {
		g.t.Fatalf("no document has a drop-in for --swap: %q", found)
	}
	for _, unit := range []string{"jnbd@data", "jnbd-attach@nbd0"} {
		g.shell("mkdir -p /etc/systemd/system/" + unit + ".service.d; cat >/etc/systemd/system/" + unit + ".service.d/override.conf <<'END'\n" + found[i] + "END\n")
	}
	g.shell("systemctl daemon-reload")
}

// setUpLate makes another disk, with a mount at boot. Nothing starts its server then.
const setUpLate = `
	sed -e 's/^.export.example./[export.late]/' -e 's/example.img/late.img/' -e 's/"1G"/"256M"/' \
		-e 's/^#journal-size.*/journal-size = "64M"/' /etc/jnbd/example.toml >/etc/jnbd/late.toml
	sed 's/example/late/g' /etc/jnbd/attach/example.conf >/etc/jnbd/attach/nbd1.conf
	systemctl start jnbd@late
	systemctl enable --now jnbd-attach@nbd1
	mkfs.ext4 -q /dev/nbd1
	mkdir /late
	sed -n 's|/dev/nbd0 /data \(.*\)@nbd0|/dev/nbd1 /late \1@nbd1|p' /etc/fstab >>/etc/fstab
	systemctl daemon-reload
	systemctl start late.mount
`

// mustAwaitLate wants a boot to wait for the server of the other disk, which is down.
func (g *guest) mustAwaitLate() {
	g.t.Helper()
	g.mustLog("jnbd-attach@nbd1", "no server yet")
	jobs := g.shell("systemctl list-jobs --no-legend")
	for _, want := range []string{"jnbd-attach@nbd1.service", "dev-nbd1.device", "late.mount", "remote-fs.target"} {
		if !strings.Contains(jobs, want) {
			g.t.Errorf("%s does not wait for the server:\n%s", want, jobs)
		}
	}
	// Who mounts a device waits for it no longer than that, whatever the attachment does.
	device := g.timeSpan("dev-nbd1.device", "JobRunningTimeoutUSec")
	if attachment := g.timeSpan("jnbd-attach@nbd1.service", "TimeoutStartUSec"); device <= attachment {
		g.t.Errorf("the mount waits %v for its device, whose attachment may take %v", device, attachment)
	}
}

// timeSpan is a property of a unit.
func (g *guest) timeSpan(unit, property string) time.Duration {
	g.t.Helper()
	said := strings.TrimSpace(g.shell("systemctl show --value --property=" + property + " " + unit))
	span, err := time.ParseDuration(strings.NewReplacer("min", "m", " ", "").Replace(said))
	if err != nil {
		g.t.Fatalf("%s of %s: %v", property, unit, err)
	}
	return span
}

// mustBeUp waits until the boot is through, and wants nothing to have failed.
func (g *guest) mustBeUp() {
	g.t.Helper()
	g.shell(`
		timeout 90 systemctl is-system-running --wait || { systemctl list-jobs; systemctl --failed; exit 1; }
		systemctl is-active remote-fs.target
	`)
}

// waitInVain has the server of the other disk come too late for who waits. Its device is there all
// the same, and can be mounted by hand.
func (g *guest) waitInVain() {
	g.t.Helper()
	g.shell(`
		sed -i 's/^OPTIONS=.*/OPTIONS=--wait 1s/' /etc/jnbd/attach/nbd1.conf
		# One by one: nothing but a shutdown orders a server behind its attachments.
		systemctl stop late.mount
		systemctl stop jnbd-attach@nbd1
		systemctl stop jnbd@late
		if systemctl start late.mount; then exit 1; fi
		systemctl start jnbd@late
	`)
	g.mustBeActive("jnbd-attach@nbd1")
	g.shell("systemctl start late.mount")
}

// remove takes the package away, and with it what runs. The disks stay.
const remove = `
	umount /data /late
	e2fsck -fn /dev/nbd0
	dpkg --remove jnbd
	if pidof jnbd; then exit 1; fi
	[ "$(cat /sys/block/nbd0/size)" = 0 ]
	[ -e /var/lib/jnbd/data.img ]
`

// mustLog wants a unit to have said something since the boot.
func (g *guest) mustLog(unit, text string) {
	g.t.Helper()
	g.await(unit+" to say "+text, func() bool {
		found := g.shell("journalctl --boot --no-pager --output=cat --unit=" + unit + " | grep --count --fixed-strings -- '" + text + "' || true")
		return strings.TrimSpace(found) != "0"
	})
}

// mustBeActive waits until a unit is active.
func (g *guest) mustBeActive(unit string) {
	g.t.Helper()
	g.await(unit+" to be active", func() bool {
		return strings.TrimSpace(g.shell("systemctl is-active "+unit+" || true")) == "active"
	})
}

// mustHaveStoppedInOrder looks at how the boot before this one ended: what is mounted goes first,
// then the device, then the server. The kernel saw nothing wrong.
func (g *guest) mustHaveStoppedInOrder() {
	g.t.Helper()
	said := g.shell(`journalctl --boot=-1 --no-pager --output=cat _PID=1 |
		grep -E '^(Unmounted|Stopped|Stopping|Failed|.*[Ff]ailed with).*(/data|data.mount|nbd0|jnbd@data)' | tail -n 6`)
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
