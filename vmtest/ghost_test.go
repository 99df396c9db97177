package vmtest

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"jnbd/vmtest/step"
)

// TestGhostWrite: a write is held back on its way to the server until the kernel's client
// gives it up, connects anew and sends it again. The block is then overwritten. Only now the
// held write reaches the server, on the connection that the kernel has left: it must not
// win. In every mode.
func TestGhostWrite(t *testing.T) {
	g := boot(t)
	for i, mode := range modes {
		disk := filepath.Join(t.TempDir(), mode+".img")
		served := serve(t, disk, 64<<20, freePort(t), "--mode", mode)
		ghostWrite(g, served, mode, fmt.Sprintf("/dev/nbd%d", i))
		g.run("jnbd", "detach", fmt.Sprintf("/dev/nbd%d", i))
		served.stop()
		jnbd(t, "check", disk)
	}
	g.mustBeClean()
}

func ghostWrite(g *guest, served *server, mode, device string) {
	g.t.Helper()
	const (
		before, ghost, winner = 1, 2, 3 // seeds
		offset                = 1 << 20
		request               = 28 + step.BlockSize
	)
	write := func(seed uint64) error {
		_, err := g.m.Do(g.ctx, step.Step{Do: step.WriteBlock, Device: device, Offset: offset, Seed: seed}, nil)
		return err
	}
	between := newProxy(g.t, served.port)
	g.jnbdAttach(fmt.Sprintf("nbd://10.0.2.2:%d/", between.port()), device, "--connections", "1", "--timeout", "2s")
	if err := write(before); err != nil {
		g.t.Fatal(err)
	}
	held := between.hold()
	if len(held) != 1 {
		g.t.Fatalf("%s: the device has %d connections, want 1", mode, len(held))
	}
	if err := write(ghost); err != nil { // comes back when it was sent again
		g.t.Fatalf("%s: the held write: %v", mode, err)
	}
	if err := write(winner); err != nil {
		g.t.Fatalf("%s: the overwrite: %v", mode, err)
	}
	between.release(held[0], request)
	select {
	case <-held[0].closed: // the server is through with what was on it
	case <-time.After(serverLife):
		g.t.Fatalf("%s: the server does not close the connection that the client has left", mode)
	}
	got := g.files(step.Step{Do: step.ReadBlock, Device: device, Offset: offset})
	names := map[uint64]string{
		step.Describe("", step.Block(before)).CRC64: "what stood there before",
		step.Describe("", step.Block(ghost)).CRC64:  "the ghost",
	}
	want := map[string]step.File{device: step.Describe(device, step.Block(winner))}
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Fatalf("%s: the block holds %s (-want +got):\n%s", mode, names[got[device].CRC64], diff)
	}
}
