// Package testtool gives tests what lies outside of the Go tree: programs of the host, and
// the real jnbd.
package testtool

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Required reports whether what is missing on this host must fail a test (JNBD_REQUIRE=1,
// set by scripts/test) instead of skipping it.
func Required() bool { return os.Getenv("JNBD_REQUIRE") == "1" }

// Need skips the test when one of the programs is not installed, or fails it where they are
// required.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if Required() {
			t.Fatalf("%s is not installed, and JNBD_REQUIRE=1 forbids to skip", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// Jnbd builds the real jnbd, static, as users get it, into a directory of the test, and
// returns its path.
func Jnbd(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jnbd")
	build := exec.Command("go", "build", "-o", path, "jnbd/cmd/jnbd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// FreeAddress is an address of the loopback that nobody listens on now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
