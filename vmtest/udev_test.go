package vmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"jnbd/vmtest/step"
)

// TestUdevLooksToo: Debian's udevd runs in the guest and looks at every device that appears or
// that a writer has closed. A disk with a partition is attached, written to and detached, time
// and again, while udevd looks. Its partition is there as soon as jnbd says that the device
// is, and no attach or detach fails because of who else has the device open. A look that begins
// just when the device goes finds nothing, and the kernel says so; no write may fail.
func TestUdevLooksToo(t *testing.T) {
	const rounds = 5
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := makePartitioned(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	jnbd(t, "create", disk, "--journal-size", "64M")
	port := freePort(t)
	served := serve(t, disk, 64<<20, port)
	g := bootWith(t, Config{Initramfs: withUdev(t), Network: true})
	g.run("mkdir", "-p", "/run")
	g.run("systemd-udevd", "--daemon")

	for round := range rounds {
		supervisor := g.jnbdAttach(fmt.Sprintf("nbd://10.0.2.2:%d/", port), "/dev/nbd0")
		if partition := g.read("/sys/block/nbd0/nbd0p1/partition"); partition != "1" {
			t.Errorf("round %d: partition %q", round, partition)
		}
		// The end of each write has udevd look once more.
		g.do(step.Step{Do: step.WriteBlock, Device: "/dev/nbd0p1", Seed: uint64(round)})
		if round == 0 {
			g.mustKnow("nbd0", "ID_PART_TABLE_TYPE=dos")
			g.mustKnow("nbd0p1", "ID_PART_ENTRY_NUMBER=1")
		}
		g.do(step.Step{Do: step.WriteBlock, Device: "/dev/nbd0p1", Seed: uint64(round)})
		g.run("jnbd", "detach", "/dev/nbd0")
		g.mustEnd(supervisor)
		if size := g.read("/sys/block/nbd0/size"); size != "0" {
			t.Errorf("round %d: %s sectors are left after detach", round, size)
		}
	}
	g.run("udevadm", "settle", "--timeout=30")
	for line := range strings.Lines(g.kernelLog(lost + `|\(READ\)|async page read`)) {
		if suspicious.MatchString(line) {
			t.Errorf("the kernel says: %s", line)
		}
	}
	g.run("udevadm", "control", "--exit")
	served.stop()
}

// mustKnow waits until udevd is through with all that it heard of, and wants it to have found
// a property of a device.
func (g *guest) mustKnow(device, property string) {
	g.t.Helper()
	g.run("udevadm", "settle", "--timeout=30")
	if known := g.run("udevadm", "info", "--query=property", "--name=/dev/"+device); !strings.Contains(known, property+"\n") {
		g.t.Errorf("udevd does not know %s of %s:\n%s", property, device, known)
	}
}

// makePartitioned makes an image of size bytes that one partition begins at its second MiB.
func makePartitioned(path string, size int64) error {
	if err := makeSparse(path, size); err != nil {
		return err
	}
	const start = 1 << 20
	sector := make([]byte, 512)
	entry := sector[446:] // the first of four, in the sector of a DOS partition table
	entry[4] = 0x83       // Linux
	binary.LittleEndian.PutUint32(entry[8:], start/512)
	binary.LittleEndian.PutUint32(entry[12:], uint32((size-start)/512))
	binary.LittleEndian.PutUint16(sector[510:], 0xaa55)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(sector, 0)
	return errors.Join(err, f.Close())
}

// withUdev is the path of the world's initramfs, with Debian's udevd and its rules.
func withUdev(t *testing.T) string {
	t.Helper()
	w := theWorld(t)
	tree, err := findUdev(context.Background())
	if errors.Is(err, ErrUnavailable) && os.Getenv("JNBD_REQUIRE") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(w.initramfs)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel unpacks one archive after the other.
	archive := bytes.NewBuffer(base)
	if err := addUdev(archive, tree); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// findUdev is the directory that Debian's current udev package is unpacked in. It is not
// installed: that would start it on this machine.
func findUdev(ctx context.Context) (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	version, err := currentVersion(ctx, "udev")
	if err != nil {
		return "", fmt.Errorf("%w: Debian's udev: %w", ErrUnavailable, err)
	}
	dir, err := fetchPackage(ctx, filepath.Join(user, "jnbd", "udev"), "udev", version)
	if err != nil {
		return "", fmt.Errorf("%w: Debian's udev: %w", ErrUnavailable, err)
	}
	return dir, nil
}

// addUdev writes an archive with udevd, udevadm and the rules of the package below tree.
func addUdev(w io.Writer, tree string) error {
	a := newArchive(w)
	for _, name := range []string{"systemd-udevd", "udevadm"} { // one program: it looks at its name
		if err := a.addProgram(Program{name, filepath.Join(tree, "bin", "udevadm")}); err != nil {
			return err
		}
	}
	rules, err := filepath.Glob(filepath.Join(tree, "lib/udev/rules.d/*.rules"))
	if err != nil || len(rules) == 0 {
		return fmt.Errorf("%d rules of udev below %s (%w)", len(rules), tree, err)
	}
	for _, rule := range rules {
		if err := a.copyFile(filepath.Join("lib/udev/rules.d", filepath.Base(rule)), rule, 0o644); err != nil {
			return err
		}
	}
	return a.close()
}
