package vmtest

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// TestForcedDetach: jnbd attach is stopped under a mounted device that is written to, leaves it
// attached, and another one takes it over, after the server was started anew meanwhile. Then the
// server hangs (SIGSTOP). jnbd detach --force takes the device away at once, before any
// timeout: whoever waited gets an error, and no thread is left that can't be ended. What was
// synced before is there. A device that is taken from somebody who holds it open can be attached
// again when he lets go.
func TestForcedDetach(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.img")
	port := freePort(t)
	served := serve(t, disk, diskSize, port)
	g := boot(t)
	uri := "nbd://10.0.2.2:" + strconv.Itoa(port) + "/"
	supervisor := g.jnbdAttach(uri, "/dev/nbd0", "--timeout", "2s")
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	g.do(step.Step{Do: step.Mount, Device: "/dev/nbd0", Dir: "/mnt"})

	w := g.write("before", 5)
	if out := g.mustEnd(supervisor); !strings.Contains(out, "stays attached") {
		t.Errorf("jnbd attach does not say that it leaves the device attached: %s", out)
	}
	served.stop()
	served = serve(t, disk, diskSize, port)
	supervisor = g.jnbdAttach(uri, "/dev/nbd0", "--timeout", "1m") // for requests from now on
	if got := g.read("/sys/block/nbd0/queue/io_timeout"); got != "60000" {
		t.Errorf("the device's timeout is %s ms after it was taken over", got)
	}
	w.await(w.count() + 5)
	served.signal(syscall.SIGSTOP)
	g.await("a thread that is blocked", func() bool { return g.blocked() != "" })
	began := time.Now()
	g.run("jnbd", "detach", "--force", "/dev/nbd0")
	want := w.mustFail()
	g.await("blocked threads to go on", func() bool { return g.blocked() == "" })
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v; the device's timeout is a minute", took)
	}
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	g.mustEnd(supervisor)

	served.signal(syscall.SIGCONT)
	if out := g.run("jnbd", "attach", "--fork", uri, "/dev/nbd1"); !strings.HasPrefix(out, "/dev/nbd1\n") {
		t.Errorf("jnbd attach --fork says %q", out)
	}
	g.replay("/dev/nbd1")
	readBack(g, "/dev/nbd1", want)
	g.heldAcrossDetach(uri, "/dev/nbd1")
	g.run("jnbd", "detach", "/dev/nbd1")
	if answer := g.do(step.Step{Do: step.Run, Args: []string{"jnbd", "detach", "/dev/nbd1"}}); answer.Code != 1 || !strings.Contains(answer.Out, "not attached") {
		t.Errorf("detach of what is not attached: exit code %d: %s", answer.Code, answer.Out)
	}
}

// heldAcrossDetach has somebody hold an attached device open while it is taken away. It can't be
// attached anew until he lets go, and then it is, although the attach began before.
func (g *guest) heldAcrossDetach(uri, device string) {
	g.t.Helper()
	holder := g.do(step.Step{Do: step.Start, Args: []string{"bash", "-c", `exec 3<"$0"; echo held; kill -STOP $$`, device}})
	g.run("jnbd", "detach", "--force", device)
	attached := make(chan error, 1)
	go func() { // ends with the step
		_, err := g.m.Do(g.ctx, attachStep(uri, device), nil)
		attached <- err
	}()
	select {
	case err := <-attached:
		g.t.Fatalf("attach ended while somebody had the device open: %v", err)
	case <-time.After(time.Second):
	}
	g.do(step.Step{Do: step.Stop, PID: holder.PID, Signal: int(syscall.SIGKILL)})
	if err := <-attached; err != nil {
		g.t.Fatal(err)
	}
}

// TestRolledBackDisk: under a mounted ext4 the server comes back with an old copy of the disk,
// and later with one that something else has touched, and that jnbd was told to accept. The
// device goes on with neither: the guest's writes wait. When the newest copy is put back, they
// go on.
func TestRolledBackDisk(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.img")
	port := freePort(t)
	served := serve(t, disk, diskSize, port)
	g := boot(t)
	uri := "nbd://10.0.2.2:" + strconv.Itoa(port) + "/"
	supervisor := g.jnbdAttach(uri, "/dev/nbd0", "--connections", "1", "--timeout", "2s")
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	g.do(step.Step{Do: step.Mount, Device: "/dev/nbd0", Dir: "/mnt"})

	served.stop()
	old, newest := filepath.Join(dir, "old"), filepath.Join(dir, "newest")
	moveDisk(t, disk, old, true)
	served = serve(t, disk, diskSize, port)
	w := g.write("files", 5)
	served.kill()
	served = serve(t, disk, diskSize, port) // the supervisor sees how far it has come
	w.await(10)
	served.kill()

	moveDisk(t, disk, newest, false)
	moveDisk(t, old, disk, false)
	served = serve(t, disk, diskSize, port)
	w.mustWait(served)
	served.stop()
	moveDisk(t, newest, disk, false)
	served = serve(t, disk, diskSize, port)
	w.await(w.count() + 5) // it goes on
	g.mustBeClean()

	served.stop()
	touched := time.Now().Add(time.Second)
	if err := os.Chtimes(disk, touched, touched); err != nil {
		t.Fatal(err)
	}
	served = serve(t, disk, diskSize, port, "--accept-backing")
	w.mustWait(served)
	g.await("a thread that is blocked", func() bool { return g.blocked() != "" })
	g.run("jnbd", "detach", "--force", "/dev/nbd0")
	want := w.mustFail()
	g.await("blocked threads to go on", func() bool { return g.blocked() == "" })
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	if out := g.mustEnd(supervisor); !strings.Contains(out, "rolled back") {
		t.Errorf("jnbd attach does not say why it did not go on: %s", out)
	}
	g.jnbdAttach(uri, "/dev/nbd1")
	g.replay("/dev/nbd1")
	readBack(g, "/dev/nbd1", want)
	g.run("jnbd", "detach", "/dev/nbd1")
	served.stop()
}

// readBack wants files on a device whose journal was replayed.
func readBack(g *guest, device string, want map[string]step.File) {
	g.t.Helper()
	g.fsck(device)
	g.do(step.Step{Do: step.Mount, Device: device, Dir: "/mnt"})
	mustHold(g.t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt"}), want)
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
}

// blocked names the guest's threads that can't be ended.
func (g *guest) blocked() string {
	g.t.Helper()
	return g.do(step.Step{Do: step.Blocked}).Out
}

// mustEnd waits for a supervisor whose device was detached, and returns what it had to say.
func (g *guest) mustEnd(pid int) string {
	g.t.Helper()
	end := g.do(step.Step{Do: step.Stop, PID: pid, Signal: int(syscall.SIGTERM)})
	if end.Code != 0 {
		g.t.Fatalf("jnbd attach: exit code %d: %s", end.Code, end.Out)
	}
	return end.Out
}

// moveDisk moves a disk and its journal, or copies them.
func moveDisk(t *testing.T, from, to string, keep bool) {
	t.Helper()
	for _, suffix := range []string{"", ".jnbd"} {
		if keep {
			hostRun(t, "cp", "--sparse=always", "-p", from+suffix, to+suffix)
		} else if err := os.Rename(from+suffix, to+suffix); err != nil {
			t.Fatal(err)
		}
	}
}

// writer is the guest writing and syncing files without end.
type writer struct {
	g     *guest
	named chan step.File
	ended chan error
	files map[string]step.File
}

// write begins to write files below /mnt/dir, and returns when some are synced.
func (g *guest) write(dir string, files int) *writer {
	g.t.Helper()
	w := &writer{g: g, named: make(chan step.File, 10_000), ended: make(chan error, 1), files: make(map[string]step.File)}
	go func() { // ends with the step
		_, err := g.m.Do(g.ctx, step.Step{Do: step.WriteSynced, Dir: "/mnt/" + dir, Seed: 11}, func(f step.File) {
			f.Name = filepath.Join(dir, f.Name)
			w.named <- f
		})
		close(w.named)
		w.ended <- err
	}()
	w.await(files)
	return w
}

// await waits until so many files are synced.
func (w *writer) await(files int) {
	w.g.t.Helper()
	for len(w.files) < files {
		f, ok := <-w.named
		if !ok {
			w.g.t.Fatalf("writing ended after %d files: %v", len(w.files), <-w.ended)
		}
		w.files[f.Name] = f
	}
}

// count is how many files are synced by now.
func (w *writer) count() int {
	for {
		select {
		case f, ok := <-w.named:
			if ok {
				w.files[f.Name] = f
				continue
			}
		default:
		}
		return len(w.files)
	}
}

// mustWait fails the test unless the server is asked for the disk again and again, and
// nothing is written meanwhile.
func (w *writer) mustWait(served *server) {
	w.g.t.Helper()
	w.g.await("the server to be asked", func() bool {
		return strings.Count(served.log.String(), "connection attached") > 0
	})
	before := w.count()
	w.g.await("the server to be asked again", func() bool {
		return strings.Count(served.log.String(), "connection attached") > 2
	})
	if after := w.count(); after != before {
		w.g.t.Fatalf("the device went on: %d files, then %d", before, after)
	}
}

// mustFail waits until writing has failed, and returns the files that were synced.
func (w *writer) mustFail() map[string]step.File {
	w.g.t.Helper()
	err := errors.New("the guest does not answer")
	select {
	case err = <-w.ended:
	case <-w.g.ctx.Done():
		w.g.t.Fatal(err)
	}
	if err == nil {
		w.g.t.Fatal("no write failed, and the device is gone")
	}
	w.count()
	return maps.Clone(w.files)
}
