package vmtest

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"jnbd/vmtest/step"
)

// guestLife bounds every machine of these tests, and every wait for it.
const guestLife = 2 * time.Minute

// guest is a machine whose failures are the test's.
type guest struct {
	t    *testing.T
	ctx  context.Context
	m    *Machine
	over bool // quit was called
}

// boot starts a machine. The test ends with its END, or fails.
func boot(t *testing.T, disks ...string) *guest {
	t.Helper()
	return bootWith(t, Config{Initramfs: theWorld(t).initramfs, Disks: disks, Network: true})
}

// bootWith starts a machine on the world's kernel.
func bootWith(t *testing.T, config Config) *guest {
	t.Helper()
	w := theWorld(t)
	life := guestLife + longStop(t)
	ctx, cancel := context.WithTimeout(context.Background(), life)
	t.Cleanup(cancel)
	config.Kernel, config.Accelerator, config.Deadline = w.kernel, w.accelerator, life
	m, err := Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, ctx: ctx, m: m}
	t.Cleanup(func() {
		g.quit()
		if t.Failed() {
			t.Logf("console of the guest:\n%s", m.Console())
		}
	})
	return g
}

// quit ends the machine, which must say END. The second call does nothing.
func (g *guest) quit() {
	g.t.Helper()
	if g.over {
		return
	}
	g.over = true
	if err := g.m.Quit(g.ctx); err != nil {
		g.t.Error(err)
	}
}

// do performs a step that must succeed.
func (g *guest) do(asked step.Step) step.Answer {
	g.t.Helper()
	answer, err := g.m.Do(g.ctx, asked, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer
}

// files performs a step that must succeed and returns the files it names.
func (g *guest) files(asked step.Step) map[string]step.File {
	g.t.Helper()
	files := make(map[string]step.File)
	if _, err := g.m.Do(g.ctx, asked, func(f step.File) { files[f.Name] = f }); err != nil {
		g.t.Fatal(err)
	}
	return files
}

// run runs a program that must exit with 0 and returns what it printed.
func (g *guest) run(args ...string) string {
	g.t.Helper()
	out, err := g.m.Run(g.ctx, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// read reads a text file of the guest, without the blanks around it.
func (g *guest) read(path string) string {
	g.t.Helper()
	return strings.TrimSpace(g.do(step.Step{Do: step.Read, Path: path}).Out)
}

// attach attaches a device to an export of size bytes with Debian's nbd-client, and checks
// what the kernel made of what the server advertises.
func (g *guest) attach(device string, size int64, address ...string) {
	g.t.Helper()
	g.run(append(append([]string{"nbd-client"}, address...), device)...)
	sys := filepath.Join("/sys/block", filepath.Base(device))
	got := map[string]string{
		"size":              g.read(sys + "/size"),
		"queue/write_cache": g.read(sys + "/queue/write_cache"),
		"queue/fua":         g.read(sys + "/queue/fua"),
		"ro":                g.read(sys + "/ro"),
	}
	want := map[string]string{
		"size":              strconv.FormatInt(size/512, 10),
		"queue/write_cache": "write back",
		"queue/fua":         "1",
		"ro":                "0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Fatalf("%s after attach (-want +got):\n%s", device, diff)
	}
	if g.read(sys+"/queue/discard_max_bytes") == "0" {
		g.t.Fatalf("%s does not trim", device)
	}
}

// detach takes the device from its server.
func (g *guest) detach(device string) {
	g.t.Helper()
	g.run("nbd-client", "-d", device)
}

// connections counts the guest's established TCP connections to a port.
func (g *guest) connections(port int) int {
	g.t.Helper()
	remote := fmt.Sprintf(":%04X", port)
	count := 0
	for line := range strings.Lines(g.read("/proc/net/tcp")) {
		// 0: 0F02000A:D5C2 0202000A:1F90 01 …: local and remote address, state
		columns := strings.Fields(line)
		if len(columns) > 3 && strings.HasSuffix(columns[2], remote) && columns[3] == "01" {
			count++
		}
	}
	return count
}

// fsck fails the test unless the file system on device has not one fault.
func (g *guest) fsck(device string) {
	g.t.Helper()
	g.run("e2fsck", "-fn", device)
}

// mustHold fails the test unless every file of want is in got with the same content. More
// files may be there.
func mustHold(t *testing.T, got, want map[string]step.File) {
	t.Helper()
	if diff := diffFiles(want, got); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
}

// diffFiles says which files of want are missing from got or differ in it, "" for none.
func diffFiles(want, got map[string]step.File) string {
	got = maps.Clone(got)
	maps.DeleteFunc(got, func(name string, _ step.File) bool { _, ok := want[name]; return !ok })
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

// TestDiffFiles: the oracle of these tests can say no.
func TestDiffFiles(t *testing.T) {
	a, b := step.Describe("a", []byte("alpha")), step.Describe("b", []byte("beta"))
	changed := step.Describe("a", []byte("alphA"))
	short := step.Describe("a", []byte("alph"))
	for _, c := range []struct {
		name      string
		want, got []step.File
		same      bool
	}{
		{"all there", []step.File{a, b}, []step.File{a, b}, true},
		{"one more", []step.File{a}, []step.File{a, b}, true},
		{"nothing wanted", nil, []step.File{b}, true},
		{"one missing", []step.File{a, b}, []step.File{a}, false},
		{"all missing", []step.File{a, b}, nil, false},
		{"other content", []step.File{a}, []step.File{changed}, false},
		{"shorter", []step.File{a}, []step.File{short}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := diffFiles(byName(c.want), byName(c.got)); (diff == "") != c.same {
				t.Errorf("same is %v, want %v: %s", diff == "", c.same, diff)
			}
		})
	}
}

// byName is files under their names.
func byName(files []step.File) map[string]step.File {
	named := make(map[string]step.File)
	for _, f := range files {
		named[f.Name] = f
	}
	return named
}
