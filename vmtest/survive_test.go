package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/vmtest/step"
)

// TestServerRestartsUnderMount: the guest's kernel is attached by jnbd attach, and writes and
// fsyncs files on ext4 all the time. Its server is killed (SIGKILL) and started again, stopped
// in order and started again as another version of jnbd, and stopped for longer than the device's
// timeout (SIGSTOP). No write fails, nothing is mounted anew, nothing is lost, and the kernel reports no error. When
// the disk is made larger, the mounted device is larger too. In every mode.
func TestServerRestartsUnderMount(t *testing.T) {
	for i, mode := range modes {
		t.Run(mode, func(t *testing.T) { restartUnderMount(t, mode, 1+i) })
	}
}

func restartUnderMount(t *testing.T, mode string, connections int) {
	const files = 60
	next, err := upgradeOnce()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	port := freePort(t)
	served := serve(t, disk, diskSize, port, "--mode", mode)
	g := boot(t)
	supervisor := g.jnbdAttach(fmt.Sprintf("nbd://10.0.2.2:%d/disk.img", port), "/dev/nbd0",
		"--connections", fmt.Sprint(connections), "--timeout", "2s")
	if got := g.connections(port); got != connections {
		t.Fatalf("the kernel has %d connections, want %d", got, connections)
	}
	g.run("mkfs.ext4", "-q", "/dev/nbd0")
	g.do(step.Step{Do: step.Mount, Device: "/dev/nbd0", Dir: "/mnt"})

	want := make(map[string]step.File)
	breakages := map[int]func(){
		15: func() { served.kill() },
		30: func() { served.stop() },
		45: func() { served.signal(syscall.SIGSTOP) },
	}
	broken := make(chan int, len(breakages))
	written := make(chan error, 1)
	go func() { // ends with the step
		_, err := g.m.Do(g.ctx, step.Step{Do: step.WriteSynced, Dir: "/mnt/files", Seed: 7, Files: files}, func(f step.File) {
			f.Name = filepath.Join("files", f.Name)
			want[f.Name] = f
			if breakages[len(want)] != nil {
				broken <- len(want)
			}
		})
		written <- err
	}()
	for len(breakages) > 0 {
		select {
		case k := <-broken:
			breakages[k]()
			delete(breakages, k)
			switch k {
			case 15:
				served = serve(t, disk, diskSize, port)
			case 30:
				served = serveAs(t, next, disk, diskSize, port)
				g.await("the log to name the version that serves", func() bool {
					return strings.Contains(served.log.String(), nextVersion)
				})
			case 45:
				g.awaitLog("Connection timed out")
				time.Sleep(longStop(t))
				served.signal(syscall.SIGCONT)
			}
		case err := <-written:
			t.Fatalf("writing ended after %d files: %v", len(want), err)
		}
	}
	if err := <-written; err != nil {
		t.Fatalf("a write failed: %v", err)
	}
	if len(want) != files {
		t.Fatalf("%d files were written, want %d", len(want), files)
	}
	mustHold(t, g.files(step.Step{Do: step.ReadTree, Dir: "/mnt"}), want)
	const grown = diskSize + 64<<20
	jnbd(t, "resize", disk, strconv.FormatInt(grown>>20, 10)+"M")
	g.await("the device to grow", func() bool {
		return g.read("/sys/block/nbd0/size") == strconv.FormatInt(grown/512, 10)
	})
	g.mustBeClean()

	if answer := g.do(step.Step{Do: step.Run, Args: []string{"jnbd", "detach", "/dev/nbd0"}}); answer.Code == 0 || !strings.Contains(answer.Out, "mounted") {
		t.Fatalf("detach of a mounted device: exit code %d: %s", answer.Code, answer.Out)
	}
	g.do(step.Step{Do: step.Unmount, Dir: "/mnt"})
	g.fsck("/dev/nbd0")
	g.run("jnbd", "detach", "/dev/nbd0")
	g.mustEnd(supervisor)
	served.stop()
	mustHoldRaw(t, disk, "/", want)
}

// longStop is how long JNBD_STOP_SECONDS says that a server should stay stopped, beyond the timeouts
// that the kernel was seen to run into. 0 if it says nothing.
func longStop(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("JNBD_STOP_SECONDS")
	if text == "" {
		return 0
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("JNBD_STOP_SECONDS: %v", err)
	}
	return time.Duration(seconds) * time.Second
}

// jnbdAttach attaches a device with jnbd attach, which stays, and returns its process id. It must
// have told systemd by then that the device can be used.
func (g *guest) jnbdAttach(uri, device string, flags ...string) int {
	g.t.Helper()
	answer := g.do(attachStep(uri, device, flags...))
	if strings.TrimSpace(answer.Out) != device || answer.Notified != "READY=1" {
		g.t.Fatalf("jnbd attach says %q, and %q to systemd, want %q", answer.Out, answer.Notified, device)
	}
	return answer.PID
}

// attachStep starts jnbd attach.
func attachStep(uri, device string, flags ...string) step.Step {
	args := append([]string{"jnbd", "attach", uri, device, "--log-format", "console"}, flags...)
	return step.Step{Do: step.Start, Args: args, Notify: true}
}

// lost are the kernel's warnings of a connection that was lost or made anew.
const lost = `block nbd\d+: (Connection timed out|Receive (control|data) failed|Dead connection|Disconnected|` +
	`Send (control|data|disconnect) failed|Request send failed|shutting down sockets|reconnected socket|` +
	`not configured, cannot reconfigure)`

var lostLine = regexp.MustCompile(lost)

// suspicious are the words of what the kernel says when data may be lost.
var suspicious = regexp.MustCompile(`nbd|EXT4|JBD2|I/O|Buffer|Aborting|blocked for more`)

// mustBeClean fails the test if the kernel has warned of anything about its disks but lost
// connections.
func (g *guest) mustBeClean() {
	g.t.Helper()
	for line := range strings.Lines(g.kernelLog(lost)) {
		if suspicious.MatchString(line) {
			g.t.Errorf("the kernel says: %s", line)
		}
	}
}

// kernelLog is the last of the kernel's warnings, but for lines like except.
func (g *guest) kernelLog(except string) string {
	g.t.Helper()
	return g.do(step.Step{Do: step.KernelLog, Options: except}).Out
}

// awaitLog waits until the kernel has warned of text.
func (g *guest) awaitLog(text string) {
	g.t.Helper()
	g.await("the kernel to say "+text, func() bool { return strings.Contains(g.kernelLog(""), text) })
}

// await waits until what holds, asking again and again.
func (g *guest) await(what string, holds func() bool) {
	g.t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-g.ctx.Done():
			g.t.Fatalf("waited in vain for %s", what)
		}
	}
}
