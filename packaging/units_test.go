package packaging

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"jnbd/docs"
	"jnbd/testtool"
)

// exposures bounds what `systemd-analyze security` says of each unit: 0 is locked away, 10
// is a shell for everyone.
var exposures = map[string]float64{
	"jnbd@.service":        2.0,
	"jnbd-attach@.service": 3.0,
}

// units are the files of the installed units.
func units(t *testing.T, root string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/systemd/system/jnbd*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no units below %s: %v", root, err)
	}
	return found
}

// TestUnitsVerify lets systemd read the installed units as instances. Anything it says is a
// finding: it answers with 0 also where it ignores a line.
func TestUnitsVerify(t *testing.T) {
	testtool.Need(t, "systemd-analyze")
	root := install(t)
	shareUnits(t, root)
	for _, unit := range units(t, root) {
		name := instance(unit)
		if out := run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, name); strings.TrimSpace(out) != "" {
			t.Errorf("verify %s:\n%s", name, out)
		}
	}
	// That this check can fail.
	broken := filepath.Join(root, "usr/lib/systemd/system/broken@.service")
	if err := os.WriteFile(broken, []byte("[Service]\nExecStart=/usr/bin/jnbd serve\nPrivateTemp=yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, "broken@x.service"); !strings.Contains(out, "PrivateTemp") {
		t.Errorf("verify of a broken unit says %q", out)
	}
}

// TestDropInsVerify has systemd read each drop-in that the documents show, beside each unit.
func TestDropInsVerify(t *testing.T) {
	testtool.Need(t, "systemd-analyze")
	root := install(t)
	shareUnits(t, root)
	dropIns, err := docs.DropIns("..")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(unit, text string) string {
		dir := filepath.Join(root, "etc/systemd/system", filepath.Base(unit)+".d")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "override.conf"), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(run(t, "systemd-analyze", "verify", "--man=no", "--root="+root, instance(unit)))
	}
	for _, unit := range units(t, root) {
		for _, text := range dropIns {
			if said := verify(unit, text); said != "" {
				t.Errorf("%s with\n%s: %s", filepath.Base(unit), text, said)
			}
		}
		if said := verify(unit, "[Service]\nReadWritePath=/srv\n"); !strings.Contains(said, "ReadWritePath") {
			t.Errorf("a wrong drop-in is not found: %q", said)
		}
	}
}

// TestUnitsAreOrdered reads what the installed units say of the order at boot, which a shutdown
// turns around: servers, then attachments, then remote file systems. Enabled as their [Install]
// says, they must leave systemd no cycle: it would break one by leaving a unit out.
func TestUnitsAreOrdered(t *testing.T) {
	testtool.Need(t, "systemd-analyze")
	root := install(t)
	shareUnits(t, root)
	for _, want := range []struct{ unit, key, other string }{
		{"jnbd@.service", "Before", "remote-fs-pre.target"},
		{"jnbd-attach@.service", "After", "remote-fs-pre.target"},
		{"jnbd-attach@.service", "Wants", "remote-fs-pre.target"},
		{"jnbd-attach@.service", "After", "network-online.target"},
		{"jnbd-attach@.service", "Wants", "network-online.target"},
		{"jnbd-attach@.service", "Before", "remote-fs.target"},
	} {
		if got := unitWords(t, root, want.unit, want.key); !slices.Contains(got, want.other) {
			t.Errorf("%s: %s=%v, want %s in it", want.unit, want.key, got, want.other)
		}
	}
	for _, unit := range units(t, root) {
		for _, target := range unitWords(t, root, filepath.Base(unit), "WantedBy") {
			enable(t, root, unit, target)
		}
	}
	if out := verifyBoot(t, root); strings.TrimSpace(out) != "" {
		t.Errorf("enabled:\n%s", out)
	}
	// That this check can fail: a server that also waits for remote file systems.
	dropIn := filepath.Join(root, "etc/systemd/system/jnbd@.service.d")
	if err := errors.Join(
		os.MkdirAll(dropIn, 0o755),
		os.WriteFile(filepath.Join(dropIn, "order.conf"), []byte("[Unit]\nAfter=remote-fs.target\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	if out := verifyBoot(t, root); !strings.Contains(out, "cycle") {
		t.Errorf("a cycle is not found:\n%s", out)
	}
}

// unitWords are the words of all lines with a key in a unit.
func unitWords(t *testing.T, root, unit, key string) (words []string) {
	t.Helper()
	for line := range strings.Lines(string(read(t, filepath.Join(root, "usr/lib/systemd/system", unit)))) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	return words
}

// enable makes a target want the example instance of a unit.
func enable(t *testing.T, root, unit, target string) {
	t.Helper()
	wants := filepath.Join(root, "etc/systemd/system", target+".wants")
	if err := errors.Join(
		os.MkdirAll(wants, 0o755),
		os.Symlink(strings.TrimPrefix(unit, root), filepath.Join(wants, instance(unit))),
	); err != nil {
		t.Fatal(err)
	}
}

// verifyBoot is what systemd has to say of the start of all that is enabled.
func verifyBoot(t *testing.T, root string) string {
	t.Helper()
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, "multi-user.target", "remote-fs.target")
	for _, unit := range units(t, root) {
		cmd.Args = append(cmd.Args, instance(unit)) // what a target merely wants is not looked at
	}
	out, _ := cmd.CombinedOutput() // it fails when it has something to say
	return string(out)
}

// TestUnitsAreConfined prints and bounds each unit's exposure.
func TestUnitsAreConfined(t *testing.T) {
	testtool.Need(t, "systemd-analyze")
	root := install(t)
	shareUnits(t, root)
	for _, unit := range units(t, root) {
		limit, known := exposures[filepath.Base(unit)]
		if !known {
			t.Errorf("%s: no bound of its exposure", unit)
			continue
		}
		out := run(t, "systemd-analyze", "security", "--offline=yes", "--no-pager", "--root="+root, instance(unit))
		found := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("no exposure in\n%s", out)
		}
		score, err := strconv.ParseFloat(found[1], 64)
		if err != nil || score > limit {
			t.Errorf("%s: exposure %v, want at most %v\n%s", filepath.Base(unit), score, limit, out)
		}
		t.Logf("%s: exposure %v, at most %v is allowed", filepath.Base(unit), score, limit)
	}
}

// shareUnits gives the system below root what our units refer to of the machine's own: units,
// and the program that reloads.
func shareUnits(t *testing.T, root string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "/bin/kill", filepath.Join(root, "bin"))
	run(t, "cp", "--recursive", "--no-clobber", "/usr/lib/systemd/system", filepath.Join(root, "usr/lib/systemd"))
}

// instance turns jnbd@.service into an instance's name.
func instance(unit string) string {
	return strings.Replace(filepath.Base(unit), "@.", "@example.", 1)
}

// TestUnitServes does what systemd does with jnbd@example and the configuration as shipped:
// it runs the line of ExecStart, waits for READY, and stops it. Only the places are others.
func TestUnitServes(t *testing.T) {
	root := install(t)
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	words := execStart(t, root, dir)
	shipped := read(t, filepath.Join(root, "etc/jnbd/example.toml"))
	config := filepath.Join(root, "etc/jnbd/example.toml")
	if err := os.WriteFile(config, bytes.ReplaceAll(shipped, []byte("/var/lib/jnbd"), []byte(dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String())
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	var log, printed strings.Builder
	cmd.Stderr, cmd.Stdout = &log, &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var open os.FileInfo
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if err := notify.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 4096)
		n, err := notify.Read(message)
		if err != nil || !strings.Contains(string(message[:n]), want) {
			cancel()
			_ = cmd.Wait() // it was killed
			t.Fatalf("notified %q (%v), want %s\n%s", message[:n], err, want, &log)
		}
		if want == "READY=1" {
			if open, err = os.Stat(filepath.Join(dir, "sock")); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	var ended *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 130 {
		t.Errorf("after SIGINT: %v, want exit code 130\n%s", err, &log)
	}
	if open.Mode().Perm()&0o060 == 0 {
		t.Errorf("the socket has mode %o: its group, and so jnbd-attach@, can't connect", open.Mode().Perm())
	}
	// What jnbd-attach@ is shipped with attaches this very disk.
	attached := strings.ReplaceAll(string(read(t, filepath.Join(root, "etc/jnbd/attach/example.conf"))), "/run/jnbd/example", dir)
	if uri := strings.TrimSpace(printed.String()); !strings.Contains(attached, "\nURI="+uri+"\n") {
		t.Errorf("it serves %q, which is not what the attachment as shipped takes:\n%s", uri, attached)
	}
	if info, err := os.Stat(filepath.Join(dir, "example.img")); err != nil || info.Size() != 1<<30 {
		t.Errorf("the disk of the shipped configuration: %v, %v", info, err)
	}
}

// execStart is the command line of jnbd@example, with the installed files and with dir in
// place of systemd's directories.
func execStart(t *testing.T, root, dir string) []string {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(string(read(t, filepath.Join(root, "usr/lib/systemd/system/jnbd@.service")))))
	for lines.Scan() {
		line, ok := strings.CutPrefix(lines.Text(), "ExecStart=")
		if !ok {
			continue
		}
		line = strings.NewReplacer("/run/jnbd/%i", dir, "%i", "example", "/etc/", root+"/etc/", "/usr/bin/", root+"/usr/bin/").Replace(line)
		return strings.Fields(line)
	}
	t.Fatal("no ExecStart")
	return nil
}
