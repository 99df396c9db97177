package vmtest

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// TestServerInTheGuest: jnbd runs in the guest, on a virtio disk that holds the journal too,
// and the same kernel attaches to it over a unix socket, by nbd-client and by jnbd attach. It is killed (SIGKILL) with the
// tree written and its log not brought home, and started again. What is on the virtio disk
// at the end is a plain image for the host. In every mode.
func TestServerInTheGuest(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { serveInTheGuest(t, mode) })
	}
}

func serveInTheGuest(t *testing.T, mode string) {
	const (
		socket = "/tmp/disk.sock"
		device = "/dev/vda"
		size   = 320 << 20 // the rest is the journal: log, state and spare slots
	)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := makeSparse(disk, diskSize); err != nil {
		t.Fatal(err)
	}
	g := boot(t, disk)
	g.run("jnbd", "create", device, "--mode", mode, "--size", strconv.Itoa(size>>20)+"M", "--journal", "internal", "--journal-size", "64M")

	serve := step.Step{Do: step.Start, Args: []string{"jnbd", "serve", device, "--unix", socket}}
	server := g.do(serve)
	g.attach("/dev/nbd0", size, "-unix", socket)
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	want := writeTreeAndCheck(g, "/dev/nbd0")
	g.do(step.Step{Do: step.Stop, PID: server.PID, Signal: int(unix.SIGKILL)})
	g.detach("/dev/nbd0")

	server = g.do(serve)
	g.jnbdAttach("nbd+unix:///?socket="+socket, "/dev/nbd1")
	readTreeAndCheck(g, "/dev/nbd1", want)
	g.run("jnbd", "detach", "/dev/nbd1")
	if end := g.do(step.Step{Do: step.Stop, PID: server.PID, Signal: int(unix.SIGTERM)}); end.Code != 0 {
		t.Fatalf("jnbd after SIGTERM: exit code %d: %s", end.Code, end.Out)
	}
	g.run("jnbd", "check", device)
	g.run("jnbd", "close", device)
	g.quit()
	mustHoldImage(t, disk, "/tree", want)
}

// makeSparse makes a file of size bytes without a single block.
func makeSparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
