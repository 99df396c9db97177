package packaging

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"jnbd/testtool"
)

// The version of the release that the tests build, as it stands there and in the .deb.
const (
	version    = "0.1.0-test"
	debVersion = "0.1.0~test"
)

// built is the release that the tests look at, made once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// release is the directory with what scripts/release made for this architecture.
func release(t *testing.T) string {
	t.Helper()
	testtool.Need(t, "bash", "dpkg-deb", "tar", "gzip")
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "jnbd-release-"); built.err == nil {
			built.err = makeRelease(repository(), built.dir, nil)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// repository is the root of the tree.
func repository() string { return ".." }

// makeRelease runs the script of a tree.
func makeRelease(tree, out string, env []string) error {
	cmd := exec.Command(filepath.Join(tree, "scripts", "release"), "-o", out, "-a", runtime.GOARCH, version)
	// The commit's time is not to be had where tests run in a tree without its repository.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1760000000")
	cmd.Env = append(cmd.Env, env...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, output)
	}
	return nil
}

func debFile(t *testing.T) string {
	return filepath.Join(release(t), "jnbd_"+debVersion+"_"+runtime.GOARCH+".deb")
}

func tarFile(t *testing.T) string {
	return filepath.Join(release(t), releaseName()+".tar.gz")
}

// releaseName is the directory in the archive.
func releaseName() string { return "jnbd-" + version + "-linux-" + runtime.GOARCH }

// TestReleaseIsReproducible builds a copy of the tree once more: elsewhere, with another
// umask, another zone and another locale. The bytes are the same.
func TestReleaseIsReproducible(t *testing.T) {
	first := release(t)
	copied := filepath.Join(t.TempDir(), "another", "tree")
	if err := os.MkdirAll(copied, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "bash", "-c", `tar -C "$1" --exclude=./bin --exclude=./dist --exclude=./demo -cf - . | tar -C "$2" -xf -`, "copy", repository(), copied)
	umask := syscall.Umask(0o077)
	second := t.TempDir()
	err := makeRelease(copied, second, []string{"TZ=Asia/Kathmandu", "LC_ALL=C.UTF-8", "HOME=" + home(t), "GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE")})
	syscall.Umask(umask)
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		a, b := read(t, filepath.Join(first, name.Name())), read(t, filepath.Join(second, name.Name()))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes, not the same", name.Name(), len(a), len(b))
		}
	}
	if want := 3; len(names) != want {
		t.Errorf("%d files in the release, want %d: .deb, .tar.gz and their sums", len(names), want)
	}
}

func TestReleaseSums(t *testing.T) {
	dir := release(t)
	lines := strings.Split(strings.TrimSpace(string(read(t, filepath.Join(dir, "SHA256SUMS")))), "\n")
	if len(lines) != 2 {
		t.Fatalf("sums of %d files, want 2", len(lines))
	}
	for _, line := range lines {
		sum, name, _ := strings.Cut(line, "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256(read(t, filepath.Join(dir, name)))); got != sum {
			t.Errorf("%s: sum %s, want %s", name, sum, got)
		}
	}
}

// TestReleaseRefuses shows that a version which packages can't bear is refused.
func TestReleaseRefuses(t *testing.T) {
	testtool.Need(t, "bash")
	for _, bad := range []string{"", "1", "v1.2.3", "1.2.3_4", "1.2.3; id"} {
		cmd := exec.Command(filepath.Join(repository(), "scripts", "release"), "-o", t.TempDir(), bad)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "want a number") {
			t.Errorf("version %q: %v\n%s", bad, err, out)
		}
	}
}

// TestPackageNamesEveryLicence holds the package's copyright against the modules that the
// program says it is made of.
func TestPackageNamesEveryLicence(t *testing.T) {
	root := install(t)
	copyright := string(read(t, filepath.Join(root, "usr/share/doc/jnbd/copyright")))
	modules := 0
	for line := range strings.Lines(run(t, "go", "version", "-m", filepath.Join(root, "usr/bin/jnbd"))) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "dep" {
			modules++
			if !strings.Contains(copyright, "== "+fields[1]+" "+fields[2]+"\n") {
				t.Errorf("no licence of %s %s", fields[1], fields[2])
			}
		}
	}
	if modules == 0 {
		t.Error("the program names no module")
	}
	if vendored := string(read(t, filepath.Join(repository(), "metrics/page/files/uplot/LICENSE"))); !strings.Contains(copyright, vendored) {
		t.Error("no licence of uPlot, which the status page has in it")
	}
}

// run runs a program, which must succeed, and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// home is an empty home directory: no one's own settings.
func home(t *testing.T) string { return t.TempDir() }

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "go", "env", name))
}
